package modeldir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// write makes a file and the folders that it is in.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// read opens a directory and reads a file of at most 8 bytes.
func read(t *testing.T, dir, name string) (string, error) {
	t.Helper()
	d, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	data, err := d.ReadFile(name, 8)
	return string(data), err
}

func TestFilesOfADirectory(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "m", "a"), "12345678")
	write(t, filepath.Join(dir, "m", "long"), "123456789")
	write(t, filepath.Join(dir, "m", "sub", "b"), "within")
	write(t, filepath.Join(dir, "outside"), "secret")
	link(t, "sub/b", filepath.Join(dir, "m", "inside"))
	link(t, "../outside", filepath.Join(dir, "m", "above"))
	link(t, filepath.Join(dir, "outside"), filepath.Join(dir, "m", "absolute"))
	link(t, "/dev/zero", filepath.Join(dir, "m", "endless"))
	link(t, "nothing", filepath.Join(dir, "m", "dangling"))
	link(t, "circle", filepath.Join(dir, "m", "circle"))
	link(t, "m", filepath.Join(dir, "alias"))
	if err := syscall.Mkfifo(filepath.Join(dir, "m", "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, want, fault string }{
		{"a", "12345678", ""},
		{"inside", "within", ""},
		{"sub/b", "within", ""},
		{"long", "", "9 bytes, want at most 8"},
		{"none", "", "no such file"},
		{"dangling", "", "leads to nothing"},
		{"circle", "", "too many levels"},
		{"above", "", "escapes"},
		{"absolute", "", "escapes"},
		{"endless", "", "escapes"},
		{"../outside", "", "escapes"},
		{"pipe", "", "not a regular file"},
		{"sub", "", "not a regular file"},
		{"a\x00b", "", "invalid argument"},
	} {
		for _, folder := range []string{"m", "alias"} {
			got, err := read(t, filepath.Join(dir, folder), c.name)
			if got != c.want || (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%s/%q: %q, %v; want %q, %q", folder, c.name, got, err, c.want, c.fault)
			}
			if filepath.IsLocal(c.name) && err != nil && !strings.HasPrefix(err.Error(), filepath.Join(dir, folder)) {
				t.Errorf("error %q does not name the file", err)
			}
		}
	}
	if _, err := read(t, dir, "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v, want fs.ErrNotExist", err)
	}
	if _, err := read(t, filepath.Join(dir, "m"), "dangling"); errors.Is(err, fs.ErrNotExist) {
		t.Error("a dangling link counts as no file")
	}
	for _, path := range []string{filepath.Join(dir, "none"), filepath.Join(dir, "outside")} {
		if d, err := Open(path); err == nil {
			t.Errorf("Open(%s) = %v, want an error", path, d)
		}
	}
}

// TestLinksOfAHubCache: what the Hugging Face hub downloads works as it lies there, and leads no further than to its own repository.
func TestLinksOfAHubCache(t *testing.T) {
	hub := t.TempDir()
	repository := filepath.Join(hub, "models--org--tiny")
	snapshot := filepath.Join(repository, "snapshots", "0123abcd")
	write(t, filepath.Join(repository, "blobs", "aaaa"), "blob")
	write(t, filepath.Join(hub, "models--org--other", "blobs", "bbbb"), "other")
	write(t, filepath.Join(hub, "token"), "secret")
	link(t, "../../blobs/aaaa", filepath.Join(snapshot, "config.json"))
	link(t, "../../../models--org--other/blobs/bbbb", filepath.Join(snapshot, "of-another"))
	link(t, "../../../token", filepath.Join(snapshot, "token"))
	link(t, filepath.Join(hub, "token"), filepath.Join(snapshot, "absolute"))
	link(t, snapshot, filepath.Join(hub, "alias"))
	t.Chdir(snapshot)
	for _, dir := range []string{snapshot, filepath.Join(hub, "alias"), ".", "../0123abcd", snapshot + "/"} {
		if got, err := read(t, dir, "config.json"); got != "blob" || err != nil {
			t.Errorf("config.json of %s: %q, %v", dir, got, err)
		}
		for _, name := range []string{"of-another", "token", "absolute", "../../../token"} {
			if got, err := read(t, dir, name); err == nil || !strings.Contains(err.Error(), "escapes") {
				t.Errorf("%s of %s: %q, %v; want it refused", name, dir, got, err)
			}
		}
	}
	// Only the layout of a cache widens what links may do.
	for _, folder := range []string{"models--org--tiny/other/0123abcd", "datasets--org--tiny/snapshots/0123abcd", "snapshots/0123abcd"} {
		dir := filepath.Join(hub, "more", folder)
		write(t, filepath.Join(dir, "..", "..", "blobs", "aaaa"), "blob")
		link(t, "../../blobs/aaaa", filepath.Join(dir, "config.json"))
		if got, err := read(t, dir, "config.json"); err == nil {
			t.Errorf("config.json of %s: %q, want it refused", dir, got)
		}
	}
}
