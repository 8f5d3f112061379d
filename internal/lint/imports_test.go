package lint

import (
	"path"
	"slices"
	"strings"
	"testing"
)

// A row says what one package may import of this module. Rows stand in order, leaves first, and name only packages of rows above them: so
// arrows point down and cannot form a circle. A folder ending in /... stands for everything below it.
//
// To change a row is to change the design: say in the commit why the package cannot be given what it needs by its caller (an interface that
// it declares, an event on the bus), and change docs/structure.md with it.
type row struct {
	folder string
	may    []string
	tests  []string // what its _test.go files may import besides
}

var table = []row{
	// Leaves.
	{folder: "internal/event"},
	{folder: "internal/config"},
	{folder: "internal/lint"},
	{folder: "internal/auth/authtest"},
	{folder: "internal/auth", tests: []string{"internal/auth/authtest"}},
	{folder: "proto/inferno/v1"},

	// The device and its memory.
	{folder: "kernels"},
	{folder: "kernels/cpu", may: []string{"kernels"}},
	{folder: "internal/device"},
	{folder: "internal/device/devicetest", may: []string{"internal/device"}, tests: []string{"internal/device/native"}},
	{
		folder: "internal/device/native",
		may:    []string{"internal/device", "kernels", "kernels/cpu"},
		tests:  []string{"internal/device/devicetest"},
	},
	{folder: "internal/memory", may: []string{"internal/device", "internal/event"}},

	// Models and the engine that runs them: only tests know a device other than by its interface, and no architecture knows a file format.
	{folder: "internal/model/modeldir"},
	{folder: "internal/model/strictjson"},
	// A tokenizer's files lie where a model's do, and are as little to be trusted.
	{
		folder: "internal/tokenizer",
		may:    []string{"internal/model/modeldir", "internal/model/strictjson"},
		tests:  []string{"internal/model/gguf"},
	},
	// Templates print JSON in the order of its keys, which only strictjson keeps.
	{folder: "internal/tokenizer/chat/jinja", may: []string{"internal/model/strictjson"}},
	{
		folder: "internal/tokenizer/chat",
		may:    []string{"internal/model/modeldir", "internal/model/strictjson", "internal/tokenizer", "internal/tokenizer/chat/jinja"},
		tests:  []string{"internal/model/gguf"},
	},
	// What an output must look like, as masks over a vocabulary: the engine sees it as a Masker of its own. Properties come in the order of the
	// schema's keys, which only strictjson keeps.
	{folder: "internal/constraint", may: []string{"internal/model/strictjson"}, tests: []string{"internal/model/gguf", "internal/tokenizer"}},
	{folder: "internal/model/safetensors", may: []string{"internal/device", "internal/model/modeldir", "internal/model/strictjson"}},
	{folder: "internal/model/gguf/gguftest", may: []string{"internal/device"}},
	{folder: "internal/model/gguf", may: []string{"internal/device"}, tests: []string{"internal/model/gguf/gguftest"}},
	{
		folder: "internal/model",
		may: []string{
			"internal/device", "internal/memory", "internal/model/gguf", "internal/model/modeldir", "internal/model/safetensors",
			"internal/model/strictjson",
		},
		tests: []string{"internal/device/native", "internal/model/gguf/gguftest", "internal/model/llama"},
	},
	{folder: "internal/device/devicescript", may: []string{"internal/device", "internal/memory", "internal/model"}},
	{folder: "internal/model/modeltest", may: []string{"internal/device", "internal/memory", "internal/model", "internal/model/safetensors"}},
	{
		folder: "internal/model/llama",
		may:    []string{"internal/device", "internal/memory", "internal/model"},
		tests: []string{
			"internal/device/native", "internal/model/gguf/gguftest", "internal/model/modeltest", "internal/model/safetensors",
			"internal/tokenizer",
		},
	},
	{
		folder: "internal/engine",
		may:    []string{"internal/device", "internal/event", "internal/memory", "internal/model"},
		tests:  []string{"internal/device/native", "internal/model/llama", "internal/model/modeltest"},
	},

	// What is told about them. telemetry is an engine.Observer and reads what engines and trackers count; neither of them knows it.
	{folder: "internal/health", may: []string{"internal/event", "internal/memory"}},
	{folder: "internal/health/nvml", may: []string{"internal/health"}},
	{folder: "internal/supervisor", may: []string{"internal/health"}},
	{
		folder: "internal/discovery",
		may:    []string{"internal/event", "internal/health"},
		tests:  []string{"internal/discovery/static", "internal/memory"},
	},
	{folder: "internal/discovery/static", may: []string{"internal/discovery"}},
	// An instance has one form on the wire, whether a server answers with it or a registry holds it: clients read both with one type.
	{folder: "internal/discovery/record", may: []string{"internal/discovery", "proto/inferno/v1"}},
	{folder: "internal/discovery/etcd/etcdtest"},
	{
		folder: "internal/discovery/etcd",
		may:    []string{"internal/discovery", "internal/discovery/record"},
		tests:  []string{"internal/discovery/etcd/etcdtest", "internal/discovery/static", "internal/event", "internal/health"},
	},
	{folder: "internal/telemetry", may: []string{"internal/engine", "internal/health", "internal/memory"}, tests: []string{"internal/device"}},

	// The service. Generated types stop here and in the client.
	{
		folder: "internal/server",
		may: []string{
			"internal/auth", "internal/discovery", "internal/discovery/record", "internal/engine", "internal/health", "internal/tokenizer",
			"internal/tokenizer/chat", "internal/tokenizer/chat/jinja", "proto/inferno/v1",
		},
		tests: []string{"internal/auth/authtest", "internal/discovery/static", "internal/telemetry"},
	},

	// The orchestrator, which knows every part by its interface: devices, architectures and registries are handed to it.
	{
		folder: "internal/backend",
		may: []string{
			"internal/auth", "internal/config", "internal/device", "internal/discovery", "internal/engine", "internal/event", "internal/health",
			"internal/memory", "internal/model", "internal/model/modeldir", "internal/server", "internal/telemetry", "internal/tokenizer",
			"internal/tokenizer/chat",
		},
		tests: []string{
			"internal/auth/authtest", "internal/device/native", "internal/discovery/static", "internal/model/llama", "proto/inferno/v1",
		},
	},

	// Nothing but tests: a whole server under load.
	{
		folder: "internal/soak",
		tests: []string{
			"internal/backend", "internal/config", "internal/device", "internal/device/devicescript", "internal/device/native",
			"internal/discovery/static", "internal/model", "internal/model/llama", "proto/inferno/v1",
		},
	},

	// The library that other people's programs import, and the programs. Concrete types meet in the server's.
	{folder: "client/internal/balance"},
	// It reads the registry itself: who serves a model is known before any server is.
	{
		folder: "client",
		may:    []string{"client/internal/balance", "internal/discovery/etcd", "proto/inferno/v1"},
		tests:  []string{"internal/discovery/etcd/etcdtest"},
	},
	// The load generator is a client, for the tool and for tests that want a server under load.
	{folder: "internal/load", may: []string{"client", "proto/inferno/v1"}, tests: []string{"internal/..."}},
	{folder: "cmd/inferno-server", may: []string{"internal/..."}, tests: []string{"client", "proto/inferno/v1"}},
	{
		folder: "cmd/inferno",
		may: []string{
			"client", "internal/load", "internal/model/gguf", "internal/model/strictjson", "internal/tokenizer", "internal/tokenizer/chat",
			"internal/tokenizer/chat/jinja", "proto/inferno/v1",
		},
		tests: []string{"internal/..."}, // a server to talk to
	},
}

func TestImportsFollowTheTable(t *testing.T) {
	packages := readModule(t)
	rows := map[string]row{}
	for _, r := range table {
		rows[r.folder] = r
	}
	for _, folder := range folders(packages) {
		r, ok := rows[folder]
		if !ok {
			t.Errorf("package %s has no row in the import table (internal/lint/imports_test.go): add it below all that it imports", folder)
			continue
		}
		for _, f := range packages[folder] {
			checkArrows(t, r, f)
		}
	}
}

func checkArrows(t *testing.T, r row, f file) {
	t.Helper()
	may := r.may
	if f.test {
		may = slices.Concat(may, r.tests, []string{r.folder})
	}
	for _, importPath := range f.imports() {
		target, internal := internalImport(importPath)
		if internal && !matches(may, target) {
			t.Errorf("%s: wrong arrow: %s imports %s, and may import %q. Take what is needed as an interface declared in %s, "+
				"or hear of it on the bus; else argue for a new arrow in the table (internal/lint/imports_test.go)",
				f.name, r.folder, target, may, r.folder)
		}
	}
}

// TestArrowsOfTheTablePointDown keeps the table itself without circles, repeats and rows of packages that are gone.
func TestArrowsOfTheTablePointDown(t *testing.T) {
	packages := readModule(t)
	var above []string
	for _, r := range table {
		if slices.Contains(above, r.folder) {
			t.Errorf("the import table has two rows for %s", r.folder)
		}
		if len(packages[r.folder]) == 0 {
			t.Errorf("the import table has a row for %s, where there is no package: remove the row", r.folder)
		}
		for _, target := range r.may {
			if !slices.ContainsFunc(above, func(folder string) bool { return matches([]string{target}, folder) }) {
				t.Errorf("%s may import %s, which is not above it in the import table: arrows point down", r.folder, target)
			}
		}
		above = append(above, r.folder)
	}
}

// matches tells whether one of the patterns is folder or, ending in /..., holds it.
func matches(patterns []string, folder string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		parent, isTree := cutTree(pattern)
		if !isTree {
			return pattern == folder
		}
		return folder == parent || strings.HasPrefix(folder, parent+"/")
	})
}

func cutTree(pattern string) (parent string, ok bool) {
	if path.Base(pattern) != "..." {
		return pattern, false
	}
	return path.Dir(pattern), true
}

func TestTreePatternsMatchWholeFolders(t *testing.T) {
	for _, c := range []struct {
		patterns []string
		folder   string
		want     bool
	}{
		{[]string{"internal/model"}, "internal/model", true},
		{[]string{"internal/model"}, "internal/model/gguf", false},
		{[]string{"internal/model/..."}, "internal/model", true},
		{[]string{"internal/model/..."}, "internal/model/gguf", true},
		{[]string{"internal/model/..."}, "internal/modeltest", false},
		{[]string{"internal/..."}, "client", false},
		{[]string{"cmd/...", "internal/config"}, "internal/config", true},
		{nil, "client", false},
	} {
		if got := matches(c.patterns, c.folder); got != c.want {
			t.Errorf("matches(%q, %q) = %v, want %v", c.patterns, c.folder, got, c.want)
		}
	}
}
