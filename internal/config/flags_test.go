package config

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

var rewrite = flag.Bool("rewrite", false, "write docs/flags.md anew")

const flagsPage = "../../docs/flags.md"

// A code is written with ´, as the text itself stands in backquotes.
const flagsHead = `# Flags

Every setting of ´inferno-server´, in the order of ´--help´. Each is also an environment variable and, under the flag's name without dashes,
a key of the YAML or JSON file that ´--config´ names. A flag beats the environment, the environment the file, the file the default; what is no
setting is refused. Sizes read ´64MiB´, durations ´5s´. Those marked * concern the services: ´bench´ and ´doctor´ take them from environment
and file, where they have no effect.

This page is made of the program's own configuration: ´go test ./internal/config -run TestFlagsPage -rewrite´.

| flag | variable | default | meaning |
|---|---|---|---|
`

// TestFlagsPageTellsEveryFlag compares the page with the flags as the program reads them.
func TestFlagsPageTellsEveryFlag(t *testing.T) {
	var cli struct{ settings }
	parser, err := kong.New(&cli, kong.DefaultEnvars("INFERNO"))
	if err != nil {
		t.Fatal(err)
	}
	page := bytes.NewBufferString(strings.ReplaceAll(flagsHead, "´", "`"))
	for _, f := range parser.Model.Flags {
		if f.Name == "help" {
			continue
		}
		fmt.Fprintf(page, "| %s | `%s` | %s | %s |\n", flagColumn(f), strings.Join(f.Envs, "`, `"), defaultColumn(f), escape(f.Help))
	}
	if *rewrite {
		if err := os.WriteFile(flagsPage, page.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	found, err := os.ReadFile(flagsPage)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(page.String(), "\n")
	got := strings.Split(string(found), "\n")
	for i := range max(len(want), len(got)) {
		if i >= len(want) || i >= len(got) || want[i] != got[i] {
			t.Fatalf("%s, line %d:\n%s\nwant\n%s\n(-rewrite puts this right)", flagsPage, i+1, at(got, i), at(want, i))
		}
	}
}

func flagColumn(f *kong.Flag) string {
	text := "--" + f.Name
	switch {
	case f.IsBool() && f.Tag.Negatable != "":
		text = "--[no-]" + f.Name
	case f.IsBool():
	case f.PlaceHolder != "":
		text += " " + f.PlaceHolder
	}
	text = "`" + text + "`"
	if f.Tag.Has("serve") {
		text += " *"
	}
	return text
}

func defaultColumn(f *kong.Flag) string {
	switch {
	case f.Default != "":
		return "`" + f.Default + "`"
	case f.IsBool():
		return "`false`"
	}
	return ""
}

// escape keeps a text within its cell.
func escape(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(nothing)"
}
