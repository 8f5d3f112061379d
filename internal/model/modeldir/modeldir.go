// Package modeldir opens the files of a directory that somebody else filled. No name leads out of it, by dots or by a link, and nothing is
// opened but regular files: a pipe would have its opener wait, a device has no end.
//
// The cache of the Hugging Face hub keeps a model's files as links: models--ORG--NAME/snapshots/REVISION/config.json leads to
// ../../blobs/HASH. In such a directory a link may lead anywhere within the model's own models--ORG--NAME, and no further.
//
// A Dir belongs to one goroutine; the files that it opened outlive it.
package modeldir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Dir is an open directory.
type Dir struct {
	root *os.Root // what links may not lead out of
	from string   // where in root the files lie: "." or "snapshots/REVISION"
	path string   // as Open was given it
}

// Open opens the directory at path.
func Open(path string) (*Dir, error) {
	d := &Dir{path: filepath.Clean(path)}
	var boundary string
	var err error
	if boundary, d.from, err = boundaryOf(path); err != nil {
		return nil, err
	}
	if d.root, err = os.OpenRoot(boundary); err != nil {
		return nil, err
	}
	return d, nil
}

// boundaryOf returns the directory that links may not lead out of, and where in it the files of path lie.
func boundaryOf(path string) (boundary, from string, err error) {
	real, err := filepath.EvalSymlinks(path)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return "", "", err
	}
	snapshots := filepath.Dir(real)
	repository := filepath.Dir(snapshots)
	if filepath.Base(snapshots) == "snapshots" && strings.HasPrefix(filepath.Base(repository), "models--") {
		return repository, filepath.Join("snapshots", filepath.Base(real)), nil
	}
	return path, ".", nil
}

// Close closes the directory. Idempotent.
func (d *Dir) Close() error { return d.root.Close() }

// Path is that of the directory, as Open was given it, or of a file in it; for messages.
func (d *Dir) Path(name ...string) string { return filepath.Join(append([]string{d.path}, name...)...) }

// Open opens a file to read. Where there is none the error is fs.ErrNotExist; a link that leads to nothing is a file that is broken.
func (d *Dir) Open(name string) (*os.File, error) {
	if !filepath.IsLocal(name) {
		return nil, fmt.Errorf("%s: %.100q escapes from the directory", d.path, name)
	}
	f, err := d.root.OpenFile(filepath.Join(d.from, name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if _, found := d.root.Lstat(filepath.Join(d.from, name)); found == nil {
			return nil, fmt.Errorf("%s: a link that leads to nothing", d.Path(name))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Path(name), err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a regular file", d.Path(name))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// ReadFile reads a file of at most limit bytes.
func (d *Dir) ReadFile(name string, limit int64) ([]byte, error) {
	f, err := d.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%s: %d bytes, want at most %d", d.Path(name), info.Size(), limit)
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("%s: the file became shorter while it was read: %w", d.Path(name), err)
	}
	return data, nil
}
