package modeldir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ErrOutside means that a path does not stay below the root that it starts from, by dots or by a link, or ends at what is neither a directory
// nor a regular file.
var ErrOutside = errors.New("not a model below the root")

// Below finds a directory or a file below the first of the roots that has it, and returns its path. The error wraps ErrOutside, or
// fs.ErrNotExist where no root has it, and names no root. Who may write below a root is trusted not to exchange what was found.
func Below(roots []string, name string) (string, error) {
	if !filepath.IsLocal(name) || strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("%.100q: %w", name, ErrOutside)
	}
	for _, root := range roots {
		found, err := isBelow(root, name)
		if err != nil {
			return "", fmt.Errorf("%.100q: %w", name, err)
		}
		if found {
			return filepath.Join(root, name), nil
		}
	}
	return "", fmt.Errorf("%.100q: %w", name, fs.ErrNotExist)
}

func isBelow(root, name string) (bool, error) {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return false, errors.New("a model root cannot be opened")
	}
	defer dir.Close()
	info, err := dir.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, found := dir.Lstat(name); found == nil {
			return false, ErrOutside // a link that leads to nothing, perhaps only here
		}
		return false, nil
	case err != nil:
		return false, ErrOutside
	case !info.IsDir() && !info.Mode().IsRegular():
		return false, ErrOutside
	}
	return true, nil
}
