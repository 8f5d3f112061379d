package config

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPrecedenceIsFlagEnvironmentFileDefault(t *testing.T) {
	name := write(t, "max-batch: 3\nmax-queue: 5\nthreads: 7\nmodel: [m=/file]\ndrain-timeout: 9s\nkv-memory: 64MiB\n")
	t.Setenv("INFERNO_MAX_BATCH", "2")
	t.Setenv("INFERNO_MAX_QUEUE", "4")
	c, err := Load([]string{"--config", name, "--max-batch", "1"}, "v", new(bytes.Buffer))
	if err != nil {
		t.Fatal(err)
	}
	want := []struct {
		setting   string
		got, want any
	}{
		{"max-batch from the flag", c.MaxBatch, 1},
		{"max-queue from the environment", c.MaxQueue, 4},
		{"threads from the file", c.Threads, 7},
		{"drain-timeout from the file", c.DrainTimeout, 9 * time.Second},
		{"kv-memory from the file", c.KVMemory, AutoBytes(64 << 20)},
		{"model from the file", c.Models[0], Model{Name: "m", Path: "/file"}},
		{"device by default", c.Device, "auto"},
		{"listen by default", c.Listen, "127.0.0.1:50051"},
		{"reflection by default", c.Reflection, true},
	}
	for _, w := range want {
		if w.got != w.want {
			t.Errorf("%s: %v, want %v", w.setting, w.got, w.want)
		}
	}
}

func TestModelsAreAListOrAMapping(t *testing.T) {
	for _, text := range []string{
		"model: {b: '/y,z;', a: /x, c: 7}", `{"model": ["b=/y,z;", "a=/x", "c=7"]}`, "p: &p {b: '/y,z;', a: /x, c: 7}\nmodel: *p",
	} {
		c, err := Load([]string{"--config", write(t, text)}, "v", new(bytes.Buffer))
		if strings.HasPrefix(text, "p:") {
			if err == nil || strings.Count(err.Error(), "\n") != 0 || !strings.Contains(err.Error(), `line 1: unknown key "p"`) {
				t.Errorf("%s: %v, want the anchor's key alone refused", text, err)
			}
			continue
		}
		if want := []Model{{"b", "/y,z;"}, {"a", "/x"}, {"c", "7"}}; err != nil || !slices.Equal(c.Models, want) {
			t.Errorf("%s: %+v %v, want %v in the file's order", text, c, err, want)
		}
	}
	c, err := Load([]string{"--model", "a=/x", "--model", "b=/y=1,2;c=/z", "--no-reflection"}, "v", new(bytes.Buffer))
	if err != nil || len(c.Models) != 2 || c.Models[1] != (Model{"b", "/y=1,2;c=/z"}) || c.Reflection {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestSizesReadShort(t *testing.T) {
	for bytes, want := range map[Bytes]string{0: "0B", 1000: "1000B", 1536: "1.5KiB", 681728: "665.8KiB", 16<<30 - 40<<20: "15.96GiB", 3 << 40: "3TiB"} {
		if got := bytes.Short(); got != want {
			t.Errorf("%d bytes are %s, want %s", int64(bytes), got, want)
		}
	}
}

func TestDoctorNeedsNoModel(t *testing.T) {
	c, err := LoadDoctor([]string{"--device=cpu"}, "v", new(bytes.Buffer))
	if err != nil || c.Device != "cpu" || c.KVMemory.String() != "auto" || c.GPUUtilization != DefaultGPUUtilization ||
		!c.PrefixCache || c.TargetITL != 50*time.Millisecond || c.SpeculateUpTo != 4 {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := LoadDoctor([]string{"--model=a", "--threads=-1"}, "v", new(bytes.Buffer)); err == nil ||
		!strings.Contains(err.Error(), "NAME=PATH") || !strings.Contains(err.Error(), "threads: -1") {
		t.Errorf("%v, want both faults", err)
	}
	var help bytes.Buffer
	if _, err := LoadDoctor([]string{"--help"}, "v", &help); !errors.Is(err, ErrExit) || !strings.Contains(help.String(), "inferno-server doctor") {
		t.Errorf("%v, help:\n%s", err, help.String())
	}
}

func TestFlagsOfTheServicesAreRefusedWhereNothingIsServed(t *testing.T) {
	shared := write(t, "listen: unix:///tmp/s\ndrain-timeout: 1s\n")
	t.Setenv("INFERNO_ADMIN_LISTEN", "127.0.0.1:9")
	c, err := LoadDoctor([]string{"--config", shared, "--device=cpu"}, "v", new(bytes.Buffer))
	if err != nil || c.DrainTimeout != time.Second {
		t.Errorf("%+v %v, want a server's file and environment taken", c, err)
	}
	_, err = LoadDoctor([]string{"--listen=:1", "--config", shared, "--no-reflection"}, "v", new(bytes.Buffer))
	want := "listen: has no effect in inferno-server doctor, which serves nothing\nreflection: has no effect in inferno-server doctor, which serves nothing"
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	for name, load := range map[string]func([]string, string, *bytes.Buffer) error{
		"serve":  func(a []string, v string, b *bytes.Buffer) error { _, err := Load(a, v, b); return err },
		"doctor": func(a []string, v string, b *bytes.Buffer) error { _, err := LoadDoctor(a, v, b); return err },
	} {
		var help bytes.Buffer
		_ = load([]string{"--help"}, "v", &help)
		if got := strings.Contains(help.String(), "--drain-delay"); got != (name == "serve") || !strings.Contains(help.String(), "--max-batch") {
			t.Errorf("%s --help: names --drain-delay: %v\n%s", name, got, &help)
		}
	}
}

func TestBadConfigurationNamesItsFaults(t *testing.T) {
	tests := []struct {
		name string
		args []string
		file string
		want []string // all in the error
	}{
		{"no model", nil, "", []string{"model: none given"}},
		{"all at once", []string{"--device=tpu", "--max-batch=-1", "--dtype=f8", "--listen=here"}, "",
			[]string{`device: "tpu"`, "max-batch: -1, want 0 to 4096", `dtype: "f8"`, `listen: "here"`, "model: none"}},
		{"values that cannot be read, all at once", []string{"--max-batch=many", "--threads", "x", "--kv-memory=1XB", "--drain-timeout=5", "--reflection=maybe"}, "",
			[]string{"--max-batch", "many", "--threads", "--kv-memory", "1XB", "--drain-timeout", "--reflection", "maybe"}},
		{"values that cannot be read, of flags and of the file", []string{"--max-batch=many"}, "threads: x\nmodle: y\n",
			[]string{"--max-batch", "many", `unknown key "modle"`}},
		{"a flag without its value", []string{"--model=a=b", "--max-batch"}, "", []string{"--max-batch"}},
		{"unknown flag", []string{"--modle=a=b"}, "", []string{"--modle"}},
		{"unknown keys", []string{"--model=a=b"}, "modle: x\nthread: 1\n", []string{`unknown key "modle"`, `unknown key "thread"`}},
		{"key twice", []string{"--model=a=b"}, "threads: 1\nthreads: 2\n", []string{`line 2: key "threads" is given twice`}},
		{"wrong type", []string{"--model=a=b"}, "threads: many\n", []string{"threads", "many"}},
		{"nested", []string{"--model=a=b"}, "threads: {a: 1}\n", []string{"line 1: threads: a mapping, want one value"}},
		{"empty", []string{"--model=a=b"}, "\nthreads:\n", []string{"line 2: threads: nothing, want one value"}},
		{"list within models", nil, "model: [a=b, [c=d]]\n", []string{"model: a list, want one value"}},
		{"list as a path", nil, "model: {a: [b]}\n", []string{"model: a: a list, want one value"}},
		{"number as a model", nil, "model: [1]\n", []string{`model: "1" without a path, want NAME=PATH`}},
		{"list at the top", []string{"--model=a=b"}, "- threads\n", []string{"a list, want a mapping of settings to values"}},
		{"list as a key", []string{"--model=a=b"}, "[threads]: 1\n", []string{"line 1: a list as a key"}},
		{"not yaml", []string{"--model=a=b"}, "a: [", []string{"configuration file"}},
		{"bad size", []string{"--model=a=b", "--kv-memory=1XB"}, "", []string{"1XB", "64MiB"}},
		{"negative speculation", []string{"--model=a=b", "--speculate-up-to=-1"}, "", []string{"speculate-up-to: -1, want 0 to 4096"}},
		{"negative target", []string{"--model=a=b", "--target-itl=-1s"}, "", []string{"target-itl: -1s, want 0s to 1m"}},
		{"tiny size", []string{"--model=a=b", "--kv-memory=1KiB"}, "", []string{"kv-memory: 1KiB, want at least 1MiB"}},
		{"no size", []string{"--model=a=b", "--kv-memory=0"}, "", []string{"kv-memory", "want more than 0, or auto"}},
		{"too much of a card", []string{"--model=a=b", "--gpu-memory-utilization=1.5"}, "", []string{"gpu-memory-utilization: 1.5, want more than 0"}},
		{"share of a card on the CPU", []string{"--model=a=b", "--device=cpu", "--gpu-memory-utilization=0.5"}, "", []string{"gpu-memory-utilization: 0.5 has no effect"}},
		{"load format", []string{"--model=a=b", "--load-format=dummy"}, "", []string{`load-format: "dummy", want one of auto, random`}},
		{"bad duration", []string{"--model=a=b", "--drain-timeout=5"}, "", []string{"drain-timeout"}},
		{"model without path", []string{"--model=a"}, "", []string{"NAME=PATH"}},
		{"model twice", []string{"--model=a=b", "--model=a=c"}, "", []string{"given twice"}},
		{"two documents", []string{"--model=a=b"}, "threads: 1\n---\nmodle: 3\n", []string{"a second document"}},
		{"broken second document", []string{"--model=a=b"}, "threads: 1\n---\na: [\n", []string{"configuration file"}},
		{"too large", []string{"--model=a=b"}, "threads: 1\n#" + strings.Repeat("x", maxFile), []string{"larger than 1048576 bytes"}},
		{"file and flags at once", []string{"--device=tpu"}, "threads: -1\n", []string{"model: none", `device: "tpu"`, "threads: -1"}},
		{"list for a value", []string{"--model=a=b"}, "listen: [a, b]\n", []string{"listen: a list, want one value"}},
		{"card on the CPU", []string{"--model=a=b", "--device=cpu", "--gpu=3", "--cuda-library=x"}, "", []string{"gpu: 3 has no effect", "cuda-library:"}},
		{"step too small", []string{"--model=a=b", "--max-batch=64", "--max-batch-tokens=79"}, "", []string{"max-batch-tokens: 79, want at least 80"}},
		{"step too small for anything", []string{"--model=a=b", "--max-batch-tokens=16"}, "", []string{"max-batch-tokens: 16, want at least 17"}},
		{"relative socket", []string{"--model=a=b", "--listen=unix://x.sock"}, "", []string{"unix://x.sock"}},
		{"empty root in a list", []string{"--model-root=/a::/b"}, "", []string{"model-root: is empty"}},
		{"more models than may be", []string{"--model=a=b", "--model=c=d", "--model-root=/a", "--max-models=1"}, "", []string{"max-models: 1, want at least 2"}},
		{"models limited that cannot come", []string{"--model=a=b", "--max-models=2"}, "", []string{"max-models: 2 has no effect without model-root"}},
		{"models limited to fewer than none", []string{"--model-root=/a", "--max-models=-1"}, "", []string{"max-models: -1, want 0 to 1024"}},
		{"model name climbs", []string{"--model=../a=b"}, "", []string{`name "../a"`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			args := test.args
			if test.file != "" {
				args = append(args, "--config", write(t, test.file))
			}
			_, err := Load(args, "v", new(bytes.Buffer))
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
			for _, leak := range []string{"interface {}", "json:", "Go value", "%!"} {
				if strings.Contains(err.Error(), leak) {
					t.Errorf("error %q speaks Go", err)
				}
			}
		})
	}
	if _, err := Load([]string{"--config", filepath.Join(t.TempDir(), "none")}, "v", new(bytes.Buffer)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestVariablesThatAreNoSettings(t *testing.T) {
	t.Setenv("INFERNO_VERSION", "1.2")
	t.Setenv("INFERNO_HELP", "1")
	t.Setenv("INFERNO_MAX_BACH", "3")
	t.Setenv("INFERNO_GRPC_PORT", "8080")
	t.Setenv("INFERNO_SMOLLM2", "/a/model") // the tests' own
	for _, service := range []string{"INFERNO_SERVICE_HOST", "INFERNO_PORT", "INFERNO_PORT_50051_TCP_ADDR", "INFERNO_CHAT_SERVICE_PORT_GRPC"} {
		t.Setenv(service, "tcp://10.0.0.1:50051")
	}
	_, err := Load([]string{"--model=a=b", "--threads=-1"}, "v", new(bytes.Buffer))
	if err == nil || errors.Is(err, ErrExit) {
		t.Fatal(err)
	}
	faults := strings.Split(err.Error(), "\n")
	slices.Sort(faults)
	want := []string{
		"environment: unknown variable INFERNO_GRPC_PORT", "environment: unknown variable INFERNO_HELP",
		"environment: unknown variable INFERNO_MAX_BACH", "environment: unknown variable INFERNO_VERSION", "threads: -1, want 0 to 256",
	}
	if !slices.Equal(faults, want) {
		t.Errorf("got %q, want %q", faults, want)
	}
	if _, err := Load([]string{"--version"}, "v", new(bytes.Buffer)); !errors.Is(err, ErrExit) {
		t.Errorf("--version: %v, whatever the environment", err)
	}
}

func TestAVariableHoldsSeveralModels(t *testing.T) {
	name := write(t, "model: {c: /file}\nlisten: unix:///run/inferno.sock\n")
	want := []Model{{"a", "/x"}, {"b", "/y,z"}}
	for _, value := range []string{"a=/x;b=/y,z", "a=/x\nb=/y,z\n", " a=/x ;\n; b=/y,z"} {
		t.Setenv("INFERNO_MODEL", value)
		for _, args := range [][]string{{"--listen=unix:///run/inferno.sock"}, {"--config", name}} {
			if c, err := Load(args, "v", new(bytes.Buffer)); err != nil || !slices.Equal(c.Models, want) {
				t.Errorf("%q with %v: %+v, %v", value, args, c, err)
			}
		}
		if c, err := Load([]string{"--model=d=/flag"}, "v", new(bytes.Buffer)); err != nil || !slices.Equal(c.Models, []Model{{"d", "/flag"}}) {
			t.Errorf("%q beside a flag: %+v, %v", value, c, err)
		}
	}
	for value, fault := range map[string]string{"": "model: none given", "a=/x;b;=c": `model: "b" without a path, want NAME=PATH` + "\nmodel: \"c\" without a name"} {
		t.Setenv("INFERNO_MODEL", value)
		if _, err := Load(nil, "v", new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), fault) {
			t.Errorf("%q: %v, want %s", value, err, fault)
		}
	}
}

func TestModelRootsAreAListWhereverTheyStand(t *testing.T) {
	want := []string{"/a", "b c"}
	load := func(args ...string) {
		t.Helper()
		c, err := Load(args, "v", new(bytes.Buffer))
		if err != nil || !slices.Equal(c.ModelRoots, want) || len(c.Models) != 0 || c.MaxModels != 0 {
			t.Errorf("%q: %+v, %v", args, c, err)
		}
	}
	load("--model-root=/a:b c")
	load("--model-root=/a", "--model-root", "b c")
	load("--config", write(t, "model-root: '/a:b c'\n"))
	t.Setenv("INFERNO_MODEL_ROOT", "/a:b c")
	load()
}

func TestHelpAndVersionEndWithSuccess(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"--version"}} {
		var out bytes.Buffer
		if _, err := Load(args, "v1.2.3", &out); !errors.Is(err, ErrExit) {
			t.Errorf("%v: %v", args, err)
		}
		if !strings.Contains(out.String(), map[bool]string{true: "v1.2.3", false: "--kv-memory"}[args[0] == "--version"]) {
			t.Errorf("%v printed %q", args, out.String())
		}
	}
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]Bytes{"64MiB": 64 << 20, "1.5GiB": 3 << 29, "4096": 4096, "2 KB": 2000, "0": 0, "7B": 7} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil || b != want {
			t.Errorf("%q: %d, %v, want %d", text, b, err, want)
		}
		var again Bytes
		if err := again.UnmarshalText([]byte(b.String())); err != nil || again != b {
			t.Errorf("%q prints as %q, which reads as %d", text, b, again)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1e30GiB", "NaN", "1 XiB"} {
		if err := new(Bytes).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: accepted", text)
		}
	}
}

func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "inferno.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
