package backend

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
)

// stampNow notes what a replica is about to load. Where there is nothing, the load says so.
func (r *replica) stampNow() {
	stamp, err := stampOf(r.path)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stamp = stamp
}

// stampOf tells files from others and from what they were: places, sizes and times of a directory's files, or of a file. The revision would
// tell more, but only once every weight has been read.
func stampOf(path string) (string, error) {
	path, err := filepath.EvalSymlinks(path)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	files := []string{path}
	if info.IsDir() {
		entries, err := os.ReadDir(path) // by name
		if err != nil {
			return "", err
		}
		files = files[:0]
		for _, e := range entries {
			files = append(files, filepath.Join(path, e.Name()))
		}
	}
	h := sha256.New()
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			continue // a link that leads to nothing: the load will say so if it matters
		}
		fmt.Fprintf(h, "%q %d %d\n", file, info.Size(), info.ModTime().UnixNano())
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
