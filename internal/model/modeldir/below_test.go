package modeldir

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestAPathStaysBelowTheRoots(t *testing.T) {
	base := t.TempDir()
	first, second := filepath.Join(base, "first"), filepath.Join(base, "second")
	write(t, filepath.Join(first, "m", "config.json"), "1")
	write(t, filepath.Join(second, "m", "config.json"), "2")
	write(t, filepath.Join(second, "n.gguf"), "3")
	write(t, filepath.Join(base, "secret", "config.json"), "4")
	link(t, "m", filepath.Join(second, "alias"))
	link(t, "../secret", filepath.Join(first, "above"))
	link(t, filepath.Join(base, "secret"), filepath.Join(first, "absolute"))
	link(t, "above", filepath.Join(first, "twice"))
	link(t, "nothing", filepath.Join(first, "dangling"))
	link(t, "circle", filepath.Join(first, "circle"))
	link(t, "/dev/zero", filepath.Join(first, "endless"))
	if err := syscall.Mkfifo(filepath.Join(first, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"m": filepath.Join(first, "m"), "n.gguf": filepath.Join(second, "n.gguf"), "alias": filepath.Join(second, "alias"),
		"m/config.json": filepath.Join(first, "m", "config.json"), "./m/": filepath.Join(first, "m"), "m/../m": filepath.Join(first, "m"), ".": first,
	} {
		if got, err := Below([]string{first, second}, name); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", name, got, err, want)
		}
	}
	for name, want := range map[string]error{
		"": ErrOutside, "..": ErrOutside, "../secret": ErrOutside, "m/../../secret": ErrOutside, "/etc": ErrOutside, first: ErrOutside,
		"above": ErrOutside, "above/config.json": ErrOutside, "absolute": ErrOutside, "twice": ErrOutside, "endless": ErrOutside,
		"dangling": ErrOutside, "circle": ErrOutside, "pipe": ErrOutside, "m\x00": ErrOutside, "m/config.json/x": ErrOutside,
		"x": fs.ErrNotExist, "m/x": fs.ErrNotExist, strings.Repeat("x", 300): ErrOutside,
	} {
		got, err := Below([]string{first, second}, name)
		if !errors.Is(err, want) || got != "" || strings.Contains(err.Error(), base) && name != first {
			t.Errorf("%q: %q, %v; want %v, and no word of where the roots are", name, got, err, want)
		}
	}
	if got, err := Below(nil, "m"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without roots: %q, %v", got, err)
	}
	if _, err := Below([]string{filepath.Join(base, "none")}, "m"); err == nil || strings.Contains(err.Error(), base) {
		t.Errorf("a root that is not there: %v", err)
	}
}
