package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// maxFile bounds each file of certificates, keys or identities, in bytes.
const maxFile = 4 << 20

// DefaultPoll is how often files are looked at. Their contents are compared, not their times: a mounted secret is swapped by a link two
// folders up, which watching a file by its inode does not see, and network file systems tell of no change at all. The files are small.
const DefaultPoll = 5 * time.Second

// reloaded is what is made of files, made again when they change. What cannot be used is logged and counted, and what was there stays.
type reloaded[T any] struct {
	what    string // in logs and metrics
	make    func(*files) (*T, error)
	current atomic.Pointer[T]
	seen    [sha256.Size]byte // of the files at the last attempt
	failed  bool              // that attempt
	counts  struct{ changed, failed atomic.Uint64 }
}

func open[T any](what string, build func(*files) (*T, error)) (*reloaded[T], error) {
	r := &reloaded[T]{what: what, make: build}
	f := newFiles()
	v, err := build(f)
	if err != nil {
		return nil, err
	}
	r.current.Store(v)
	r.seen = f.sum()
	return r, nil
}

// run looks at the files until ctx ends.
func (r *reloaded[T]) run(ctx context.Context, every time.Duration, log *slog.Logger) error {
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
			r.look(log)
		}
	}
}

// look tries files again that could not be used, though they are the same: a certificate may have become valid.
func (r *reloaded[T]) look(log *slog.Logger) {
	f := newFiles()
	v, err := r.make(f)
	sum := f.sum()
	fresh := sum != r.seen
	if !fresh && !r.failed {
		return
	}
	r.seen, r.failed = sum, err != nil
	switch {
	case err == nil:
		r.current.Store(v)
		r.counts.changed.Add(1)
		log.Info("reloaded", "what", r.what)
	case fresh: // once for each content
		r.counts.failed.Add(1)
		log.Error("not reloaded: the ones before stay in use", "what", r.what, "error", err)
	}
}

// files reads files and sums up what they held.
type files struct{ hash hash.Hash }

func newFiles() *files { return &files{sha256.New()} }

func (f *files) sum() [sha256.Size]byte { return [sha256.Size]byte(f.hash.Sum(nil)) }

// Who else than its owner may do what to a file.
const (
	public  fs.FileMode = 0o022 // others may not write
	private fs.FileMode = 0o027 // nor may those who are not of its group read
)

// read returns the contents of a regular file that nobody has a right to in forbidden.
func (f *files) read(setting, path string, forbidden fs.FileMode) ([]byte, error) {
	text, err := readRegular(path, forbidden)
	fmt.Fprintf(f.hash, "%s %d %v\n", path, len(text), err)
	f.hash.Write(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	return text, nil
}

func readRegular(path string, forbidden fs.FileMode) ([]byte, error) {
	before, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !before.Mode().IsRegular() { // before it is opened: a pipe would wait for a writer
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	opened, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	info, err := opened.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	if mode := info.Mode().Perm(); mode&forbidden != 0 {
		return nil, fmt.Errorf("%s has mode %04o, want at most %04o", path, mode, 0o777&^forbidden&^0o111)
	}
	text, err := io.ReadAll(io.LimitReader(opened, maxFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxFile:
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	case len(text) == 0:
		return nil, errors.New(path + " is empty")
	}
	return text, nil
}
