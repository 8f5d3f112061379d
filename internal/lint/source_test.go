package lint

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

var (
	// mayUseC are the only packages with import "C".
	mayUseC = []string{"internal/device/native", "kernels/cpu"}

	// maySeeOutside are the only ones that read flags and the environment: everybody else is given a config.
	maySeeOutside = []string{"cmd/...", "internal/config"}

	// mayNameGRPC are the only ones that know the standard services' generated types; ours are held by the import table.
	mayNameGRPC = []string{"client", "cmd/...", "internal/server", "internal/backend"}

	// noNames say nothing about what a package owns.
	noNames = []string{
		"base", "common", "helper", "helpers", "manager", "managers", "misc", "shared", "type", "types", "util", "utils",
	}

	// outside are the standard library's ways to the environment and the command line, by package.
	outside = map[string][]string{
		"os":      {"Args", "Environ", "ExpandEnv", "Getenv", "LookupEnv"},
		"syscall": {"Environ", "Getenv"},
	}
	flagPackages = []string{"flag", "github.com/alecthomas/kong"}
)

func TestOnlyTheDevicePackagesUseC(t *testing.T) {
	eachFile(t, func(folder string, f file) {
		if slices.Contains(f.imports(), "C") && !matches(mayUseC, folder) {
			t.Errorf(`%s: import "C" in %s; only %q may: put the call behind internal/device`, f.name, folder, mayUseC)
		}
	})
}

func TestOnlyCommandsAndConfigReadFlagsAndEnvironment(t *testing.T) {
	eachFile(t, func(folder string, f file) {
		// Tests are told by the environment where fixtures are.
		if f.test || isTestPackage(folder) || matches(maySeeOutside, folder) {
			return
		}
		for _, importPath := range f.imports() {
			if slices.Contains(flagPackages, importPath) {
				t.Errorf("%s: imports %s; only %q read flags: take the value as a field of the options", f.name, importPath, maySeeOutside)
			}
		}
		ast.Inspect(f.syntax, func(node ast.Node) bool {
			if name, ok := outsideName(f, node); ok {
				t.Errorf("%s: uses %s; only %q do: take the value as a field of the options", f.at(node), name, maySeeOutside)
			}
			return true
		})
	})
}

// outsideName returns "os.Getenv" for a node that is that, under whatever name f imports os.
func outsideName(f file, node ast.Node) (string, bool) {
	selector, ok := node.(*ast.SelectorExpr)
	if !ok {
		return "", false
	}
	x, ok := selector.X.(*ast.Ident)
	if !ok {
		return "", false
	}
	for i, importPath := range f.imports() {
		local := importPath
		if name := f.syntax.Imports[i].Name; name != nil {
			local = name.Name
		}
		if x.Name == local && slices.Contains(outside[importPath], selector.Sel.Name) {
			return importPath + "." + selector.Sel.Name, true
		}
	}
	return "", false
}

func TestGeneratedTypesOfStandardServicesStopAtTheServer(t *testing.T) {
	eachFile(t, func(folder string, f file) {
		if f.test || matches(mayNameGRPC, folder) {
			return
		}
		for _, importPath := range f.imports() {
			if strings.HasPrefix(importPath, "google.golang.org/grpc/") && strings.Contains(importPath, "_v1") {
				t.Errorf("%s: imports %s; only %q name generated types: turn them into plain Go there", f.name, importPath, mayNameGRPC)
			}
		}
	})
}

// TestNoInitFunctions: what a package needs at the start, its caller gives it.
func TestNoInitFunctions(t *testing.T) {
	eachFile(t, func(_ string, f file) {
		if f.generated {
			return
		}
		for _, declaration := range f.syntax.Decls {
			function, ok := declaration.(*ast.FuncDecl)
			if ok && function.Recv == nil && function.Name.Name == "init" {
				t.Errorf("%s: func init; make it a call of the one who needs it, or a variable's value", f.at(function))
			}
		}
	})
}

func TestPackageNamesSayWhatTheyHold(t *testing.T) {
	eachFile(t, func(_ string, f file) {
		name := strings.TrimSuffix(f.syntax.Name.Name, "_test")
		if slices.Contains(noNames, name) {
			t.Errorf("%s: package %s says nothing about what it holds; name it by that", f.name, name)
		}
	})
}

func TestEveryPackageHasAComment(t *testing.T) {
	packages := readModule(t)
	for _, folder := range folders(packages) {
		shipped := slices.ContainsFunc(packages[folder], func(f file) bool { return !f.test })
		// A comment in a test file counts only where there is nothing else.
		hasComment := func(f file) bool { return f.syntax.Doc != nil && f.test != shipped }
		if !slices.ContainsFunc(packages[folder], hasComment) {
			t.Errorf("package %s has no package comment: say what it owns, who calls it and on which goroutine", folder)
		}
	}
}

func eachFile(t *testing.T, check func(folder string, f file)) {
	t.Helper()
	packages := readModule(t)
	for _, folder := range folders(packages) {
		for _, f := range packages[folder] {
			check(folder, f)
		}
	}
}
