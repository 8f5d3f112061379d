// Package lint holds the structure of the module as tests: which package may import which, and who may touch C, flags and the environment.
// It has no code of its own; `go test` runs it.
package lint

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const modulePath = "github.com/inferno-serve/inferno"

// A file is one Go source file of the module.
type file struct {
	name      string // path below the module's root, with slashes
	syntax    *ast.File
	positions *token.FileSet
	test      bool // its name ends in _test.go
	generated bool
}

// imports are the paths that f imports, in its order.
func (f file) imports() []string {
	paths := make([]string, len(f.syntax.Imports))
	for i, spec := range f.syntax.Imports {
		paths[i], _ = strconv.Unquote(spec.Path.Value) // the parser has taken it for a string already
	}
	return paths
}

// at is node's place as an editor follows it.
func (f file) at(node ast.Node) string {
	return f.name + ":" + strconv.Itoa(f.positions.Position(node.Pos()).Line)
}

// readModule returns the module's files by the folder that holds them, "" being the root.
func readModule(t *testing.T) map[string][]file {
	t.Helper()
	root := filepath.Join("..", "..")
	packages := map[string][]file{}
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return skipFolder(root, name, entry)
		}
		if filepath.Ext(name) != ".go" {
			return nil
		}
		f, err := readFile(root, name)
		if err != nil {
			return err
		}
		folder := strings.TrimPrefix(path.Dir(f.name), ".")
		packages[folder] = append(packages[folder], f)
		return nil
	})
	if err != nil {
		t.Fatalf("read the module: %v", err)
	}
	if len(packages) == 0 {
		t.Fatal("read the module: no Go files")
	}
	return packages
}

// skipFolder leaves out what the go tool leaves out, built programs, and modules within this one.
func skipFolder(root, name string, entry fs.DirEntry) error {
	if name == root {
		return nil
	}
	base := entry.Name()
	if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" || base == "bin" {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil {
		return filepath.SkipDir
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func readFile(root, name string) (file, error) {
	positions := token.NewFileSet()
	syntax, err := parser.ParseFile(positions, name, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return file{}, err
	}
	below, err := filepath.Rel(root, name)
	if err != nil {
		return file{}, err
	}
	return file{
		name:      filepath.ToSlash(below),
		syntax:    syntax,
		positions: positions,
		test:      strings.HasSuffix(name, "_test.go"),
		generated: ast.IsGenerated(syntax),
	}, nil
}

// internalImport returns the folder of a package of this module.
func internalImport(importPath string) (folder string, ok bool) {
	if importPath == modulePath {
		return "", true
	}
	return strings.CutPrefix(importPath, modulePath+"/")
}

// isTestPackage tells packages that only tests import, such as internal/device/devicetest.
func isTestPackage(folder string) bool { return strings.HasSuffix(folder, "test") }

// folders are the packages' folders in order.
func folders(packages map[string][]file) []string {
	names := make([]string, 0, len(packages))
	for name := range packages {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
