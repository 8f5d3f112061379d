package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){"inferno": main})
}

// leakChecked is a run of tests that fails when goroutines are left.
type leakChecked struct{ *testing.M }

func (m leakChecked) Run() int {
	code := m.M.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// TestScripts runs the tool as people do. In a script, $ADDR is a server with the models of startFake, $ONE one that has a single model;
// `health STATE` sets the first one's state, `begun` and `ended` wait for a request of model "wait".
func TestScripts(t *testing.T) {
	all, one := startFake(t, false), startFake(t, true)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("ADDR", all.addr)
			env.Setenv("ONE", one.addr)
			return writeTokenizers(env.WorkDir)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"health": func(_ *testscript.TestScript, _ bool, args []string) { all.set(t, args[0]) },
			"begun":  func(*testscript.TestScript, bool, []string) { <-all.waiting.begun },
			"ended":  func(*testscript.TestScript, bool, []string) { <-all.waiting.ended },
		},
	})
}

// tool runs the tool within this process.
func tool(ctx context.Context, stdin string, args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = run(ctx, args, &console{in: strings.NewReader(stdin), out: &out, err: &err})
	return code, out.String(), err.String()
}

func TestExitCodes(t *testing.T) {
	f := startFake(t, false)
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"models --addr=" + f.addr, 0, ""},
		{"generate --addr=" + f.addr + " --model=echo --prompt=hi --max-tokens=2", 0, ""},
		{"health --addr=" + f.addr, 0, ""},

		{"generate --addr=" + f.addr + " --model=x --prompt=hi", exitFailed, `NOT_FOUND: model "x": unknown model`},
		{"generate --addr=" + f.addr + " --model=echo --prompt=hi --temperature=200", exitFailed, "INVALID_ARGUMENT: sampling.temperature: is 200"},
		{"generate --addr=" + f.addr + " --model=lost --prompt=hi", exitFailed, "DATA_LOSS: "},
		{"generate --addr=127.0.0.1:1 --model=echo --prompt=hi", exitFailed, "UNAVAILABLE: "},
		{"tokenize --tokenizer=nowhere hi", exitFailed, "load tokenizer: stat nowhere: no such file"},

		{"", exitUsage, "expected one of"},
		{"nothing", exitUsage, "unexpected argument nothing"},
		{"tokenize --tokenizer=x a\xff", exitUsage, `argument 3, "a\xff", is not valid UTF-8`},
		{"generate --prompt=\xed\xa0\x80", exitUsage, `argument 2, "--prompt=\xed\xa0\x80", is not valid UTF-8`},
		{"generate --prompt=x --nothing", exitUsage, "unknown flag --nothing"},
		{"generate", exitUsage, "--prompt"},
		{"generate --prompt=x --token-ids=1", exitUsage, "can't be used together"},
		{"generate --token-ids=-1", exitUsage, "-1"},
		{"generate --token-ids=4294967296", exitUsage, "4294967296"},
		{"generate --prompt=x --max-tokens=many", exitUsage, "many"},
		{"generate --addr=" + f.addr + " --prompt=x", exitUsage, "--model is needed: the server has 4 models: echo, lost, plain, wait"},
		{"generate --addr= --model=m --prompt=x", exitFailed, "Options.Addr is empty"},
		{"tokenize --tokenizer=x --model=y hi", exitUsage, "can't be used together"},
		{"bench --concurrency=0", exitUsage, "--concurrency: 0, want 1 to 65536"},
		{"bench --rate=0", exitUsage, "--rate: 0 requests a second, want more than 0"},
		{"bench --rate=1 --concurrency=1", exitUsage, "--concurrency and --rate: want one of them"},
		{"bench --duration=1s --requests=1", exitUsage, "--requests and --duration: want one of them"},
		{"bench --warm-up=-1s", exitUsage, "a time is negative"},
		{"bench --prompt-tokens=0", exitUsage, "--prompt-tokens: 0 tokens, want 1 to 16777216"},
		{"bench --max-tokens=normal:3", exitUsage, `distribution "normal", want lognormal`},
		{"bench --cancel-after=never", exitUsage, `"never", want random`},
		{"bench --prefixes=0", exitUsage, "--prefixes: 0, want at least 1"},
		{"bench --plot=a.png", exitUsage, `--plot: "a.png", want a name that ends in .svg`},
		{"bench --workload=absent.json", exitFailed, "absent.json"},
		{"bench --cancel-share=2 --model=echo --addr=" + f.addr, exitFailed, "share of cancelled requests: 2, want 0 to 1"},
		{"bench --prompt-tokens=60 --model=echo --addr=" + f.addr, exitFailed, "a request has up to 124 tokens (0 shared, 60 of its own, 64 new), and model echo takes 64"},
		{"bench --max-tokens=4 --prompt-tokens=4 --model=echo --metrics=127.0.0.1:1 --addr=" + f.addr, exitFailed, "metrics: "},
		{"bench --requests=-1", exitUsage, "--requests: -1, want 0 or more"},
	} {
		t.Run(c.args, func(t *testing.T) {
			code, _, stderr := tool(t.Context(), "", strings.Fields(c.args)...)
			if code != c.code || !strings.Contains(stderr, c.says) || (code == 0) != (stderr == "") {
				t.Errorf("exit code %d, %q; want %d, %q", code, stderr, c.code, c.says)
			}
		})
	}
}

func TestBadLinesAreNamed(t *testing.T) {
	dir := t.TempDir()
	if err := writeTokenizers(dir); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ command, stdin, says string }{
		{"tokenize", "{\"text\":\"a\"}\n\noops\n", "line 3: offset 0: 'o' where a value should be"},
		{"tokenize", "{\"text\":\"a\"}\n{\"text\":\"a\\ud83d\"}\n", `line 2: text: offset 10: \ud83d is half of a surrogate pair`},
		{"tokenize", "{\"text\":\"a\xff\"}", "line 1: offset 10: invalid UTF-8"},
		{"tokenize", `{"text":"a","text":"b"}`, `line 1: offset 18: duplicate key "text"`},
		{"tokenize", `{"Text":"a"}`, `line 1: Text: unknown key, want "text"`},
		{"tokenize", `{"txt":"a"}`, `line 1: txt: unknown key, want "text"`},
		{"tokenize", `{}`, `line 1: "text" is missing`},
		{"tokenize", `{"text":null}`, `line 1: text: offset 8: null, want a string`},
		{"tokenize", `"a"`, `line 1: offset 0: a string, want an object`},
		{"tokenize", `{"text":"a"} {"text":"b"}`, "line 1: offset 13: text after the value"},
		{"detokenize", `{"token_ids":[-1]}`, "line 1: token_ids: [0]: is -1, want 0 to 4294967295"},
		{"detokenize", `{"token_ids":[0,4294967296]}`, "line 1: token_ids: [1]: is 4294967296, want 0 to 4294967295"},
		{"detokenize", `{"token_ids":[1.5]}`, "line 1: token_ids: [0]: 1.5 is not an integer"},
		{"detokenize", `{"token_ids":[99]}`, "line 1: token_ids[0] is 99, want 0 to 98"},
		{"detokenize", `{"text":"a"}`, `line 1: text: unknown key, want "token_ids"`},
		{"detokenize", `{}`, `line 1: "token_ids" is missing`},
	} {
		code, _, stderr := tool(t.Context(), c.stdin, c.command, "--tokenizer="+dir+"/hf")
		if code != exitFailed || !strings.Contains(stderr, c.says) {
			t.Errorf("%s of %q: exit code %d, %q; want %q", c.command, c.stdin, code, stderr, c.says)
		}
	}
}

// A line that is wrong costs no other its answer, whichever command reads it and whoever finds the fault; but the exit code tells.
func TestLinesBehindABadOneAreAnswered(t *testing.T) {
	f := startFake(t, true)
	dir := tokenizerDir(t)
	for _, c := range []struct {
		args   string
		lines  string
		out    string
		stderr []string // a line each
	}{
		{
			"score --addr=" + f.addr, `{"text":"he"}` + "\n\noops\n" + `{"text":""}` + "\n" + `{"context":"he","text":"llo"}` + "\n",
			`{"logprob":-11.75,"tokens":1,"greedy":false}
{"error":"offset 0: 'o' where a value should be"}
{"error":"INVALID_FIELD: inputs[0].text: is empty, want at least 1 character"}
{"logprob":-11.875,"tokens":1,"greedy":false}
`, []string{"inferno: line 3: offset 0", "inferno: line 4: INVALID_FIELD: inputs[0].text: is empty"},
		},
		{
			"embed --no-normalize --addr=" + f.addr, `{"text":""}` + "\n" + `{"text":"he"}`,
			`{"error":"INVALID_FIELD: inputs[0].text: is empty, want at least 1 character"}
{"embedding":[3,2]}
`, []string{"inferno: line 1: INVALID_FIELD"},
		},
		{
			"tokenize --tokenizer=" + dir, `{"txt":"he"}` + "\n" + `{"text":"hello"}`,
			`{"error":"txt: unknown key, want \"text\""}
{"token_ids":[96,94,95]}
`, []string{"inferno: line 1: txt: unknown key"},
		},
		{
			"detokenize --addr=" + f.addr, `{"token_ids":[70000]}` + "\n" + `{"token_ids":[94]}`,
			`{"error":"INVALID_ARGUMENT: token_ids[0]: is 70000, want 0 to 98"}
{"text":"he"}
`, []string{"inferno: line 1: INVALID_ARGUMENT: token_ids[0]: is 70000"},
		},
		{
			"score --addr=127.0.0.1:1 --model=m", `{"text":"he"}` + "\n" + `{"text":"he"}`, "", []string{"inferno: line 1: UNAVAILABLE"},
		},
		{
			"score --model=x --addr=" + f.addr, `{"text":"he"}` + "\n" + `{"text":"he"}`, "", []string{"inferno: line 1: NOT_FOUND"},
		},
	} {
		code, stdout, stderr := tool(t.Context(), c.lines, strings.Fields(c.args)...)
		told := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
		if code != exitFailed || stdout != c.out || len(told) != len(c.stderr) {
			t.Errorf("%s: exit code %d, %q, %q; want %d, %q", c.args, code, stdout, stderr, exitFailed, c.out)
			continue
		}
		for i, want := range c.stderr {
			if !strings.HasPrefix(told[i], want) {
				t.Errorf("%s: told %q, want %q", c.args, told[i], want)
			}
		}
	}
}

// TestBrokenPipeIsAnError: a reader that left must not leave the tool generating.
func TestBrokenPipeIsAnError(t *testing.T) {
	f := startFake(t, true)
	for _, args := range [][]string{
		{"generate", "--prompt=hi", "--addr=" + f.addr}, {"generate", "--prompt=hi", "--json", "--addr=" + f.addr},
		{"tokenize", "--tokenizer=" + tokenizerDir(t)}, {"models", "--addr=" + f.addr}, {"health", "--addr=" + f.addr},
	} {
		var stderr bytes.Buffer
		code := run(t.Context(), args, &console{in: strings.NewReader(`{"text":"a"}`), out: closedPipe{}, err: &stderr})
		if code != exitFailed || !strings.Contains(stderr.String(), "closed") {
			t.Errorf("%q: exit code %d, %q", args, code, stderr.String())
		}
	}
}

type closedPipe struct{}

func (closedPipe) Write([]byte) (int, error) { return 0, errors.New("pipe is closed") }

func tokenizerDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := writeTokenizers(dir); err != nil {
		t.Fatal(err)
	}
	return dir + "/hf"
}

func TestTextCannotSteerTheTerminal(t *testing.T) {
	const text = "a\x1b[2Jb\r\u009bc\td\ne"
	if got, want := (&console{outTerm: true}).safe(text), "a\ufffd[2Jb\ufffd\ufffdc\td\ne"; got != want {
		t.Errorf("on a terminal %q, want %q", got, want)
	}
	if got := (&console{}).safe(text); got != text {
		t.Errorf("elsewhere %q, want it as it is", got)
	}
}

// A person sees how far the prompt is, until the answer begins; where output goes elsewhere, nobody asks.
func TestPromptProgressIsForTerminals(t *testing.T) {
	f := startFake(t, true)
	for _, args := range [][]string{{"generate", "--prompt=hello"}, {"chat"}} {
		for _, terminal := range []bool{true, false} {
			var out, stderr bytes.Buffer
			code := run(t.Context(), append(args, "--max-tokens=2", "--addr="+f.addr), &console{
				in: strings.NewReader("hello\n"), out: &out, err: &stderr, outTerm: terminal, errTerm: true,
			})
			progress, rest, _ := strings.Cut(stderr.String(), "\r\x1b[K")
			if code != 0 || out.String() == "" || strings.Contains(progress, "\rprompt  ") != terminal || strings.Contains(rest, "prompt ") {
				t.Errorf("%q on a terminal, %t: exit code %d, %q, %q", args, terminal, code, out.String(), stderr.String())
			}
		}
	}
}

func TestProgress(t *testing.T) {
	for _, c := range []struct {
		name  string
		term  bool
		width int
		want  []string
	}{
		{"terminal", true, 40, []string{"\rload  0/2 [" + strings.Repeat(" ", 27) + "]", "1/2 [" + strings.Repeat("#", 13), "2/2 [" + strings.Repeat("#", 27) + "]", "\r\x1b[K"}},
		{"narrow terminal", true, 5, []string{"\rload  0/2 \x1b[K", "\rload  2/2 \x1b[K"}},
		{"elsewhere", false, 0, []string{"load: 2 requests\n", "load: 2 of 2 done in 3.0 s\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var err bytes.Buffer
			p := (&console{err: &err, errTerm: c.term, errWidth: func() int { return c.width }}).progress("load", 2)
			p.step()
			p.step()
			p.end(3 * time.Second)
			rest := err.String()
			for _, want := range c.want {
				_, after, found := strings.Cut(rest, want)
				if !found {
					t.Fatalf("%q is not in %q", want, rest)
				}
				rest = after
			}
			if !c.term && rest != "" {
				t.Errorf("%q besides", rest)
			}
		})
	}
}
