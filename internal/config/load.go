package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// ErrExit means that the arguments asked for something that has been done (--help, --version): the program ends with success.
var ErrExit = errors.New("done")

// maxFile bounds a configuration file, in bytes.
const maxFile = 1 << 20

// Load reads flags, then what they leave open from the environment, the configuration file and the defaults, and validates the whole.
// The error lists every fault; it is ErrExit after --help or --version, whose text goes to stdout.
func Load(args []string, version string, stdout io.Writer) (*Config, error) {
	early, err := parse(args, version, stdout, nil)
	if err != nil {
		return nil, err
	}
	if early.File == "" {
		return early, early.Validate()
	}
	f, err := readFile(early.File)
	if err != nil {
		return nil, err
	}
	c, err := parse(args, version, stdout, f)
	if err != nil {
		return nil, err
	}
	return c, c.Validate()
}

// settings is Config without its Validate, which kong would call before the file is read.
type settings Config

// parse fills a Config. f, which may be nil, ranks below flags and environment.
func parse(args []string, version string, stdout io.Writer, f *file) (*Config, error) {
	var cli struct {
		settings
		Version kong.VersionFlag `env:"-" help:"Print the version and exit."`
	}
	exited := false
	options := []kong.Option{
		kong.Name("inferno-server"),
		kong.Description("Serves Llama-family models over gRPC."),
		kong.Vars{"version": version},
		kong.DefaultEnvars("INFERNO"),
		kong.Writers(stdout, stdout),
		kong.Exit(func(int) { exited = true }),
	}
	if f != nil {
		options = append(options, kong.Resolvers(f))
	}
	parser, err := kong.New(&cli, options...)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	_, err = parser.Parse(args)
	if exited {
		return nil, ErrExit
	}
	if err = errors.Join(err, unknownVariables(parser.Model)); err != nil {
		return nil, err
	}
	c := Config(cli.settings)
	return &c, nil
}

// companions are variables of the project's own scripts and tests, which may be set where a server is started.
var companions = []string{
	"INFERNO_SMOLLM2", "INFERNO_FIXTURES", "INFERNO_CACHE", "INFERNO_CUDA", "INFERNO_CUDA_LIBRARY", "INFERNO_SERVER_PID",
}

// serviceVariable is what Kubernetes puts into a pod beside a Service whose name begins with inferno.
var serviceVariable = regexp.MustCompile(`_SERVICE_HOST$|_SERVICE_PORT(_|$)|_PORT(_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)?$`)

// unknownVariables refuses a variable that looks like a setting and is none: it would be misspelt, and have no effect.
func unknownVariables(app *kong.Application) error {
	known := slices.Clone(companions)
	for _, flag := range app.Flags {
		known = append(known, flag.Envs...)
	}
	var faults []error
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, "INFERNO_") && !slices.Contains(known, name) && !serviceVariable.MatchString(name) {
			faults = append(faults, fmt.Errorf("environment: unknown variable %s", name))
		}
	}
	return errors.Join(faults...)
}

// file is a configuration file as a kong.Resolver. Kong would let a file override the environment, ignore unknown keys, and take the
// last of two equal ones; this does none of that.
type file struct {
	name     string
	settings map[string]any
}

func readFile(name string) (*file, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("configuration file %s: larger than %d bytes", name, maxFile)
	}
	settings := map[string]any{}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&settings); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("configuration file %s: %w", name, err)
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("configuration file %s: something follows its first document, want one only", name)
	}
	return &file{name: name, settings: settings}, nil
}

// Validate refuses keys that are no settings.
func (f *file) Validate(app *kong.Application) error {
	known := map[string]bool{}
	for _, flag := range app.Flags {
		known[flag.Name] = true
	}
	for _, name := range []string{"help", "version", "config"} {
		delete(known, name)
	}
	var faults []error
	for key := range f.settings {
		if !known[key] {
			faults = append(faults, fmt.Errorf("configuration file %s: unknown key %q", f.name, key))
		}
	}
	return errors.Join(faults...)
}

// Resolve gives a flag its value from the file, unless the environment has one.
func (f *file) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, name := range flag.Envs {
		if _, set := os.LookupEnv(name); set {
			return nil, nil
		}
	}
	value, set := f.settings[flag.Name]
	if !set {
		return nil, nil
	}
	if models, ok := value.(map[string]any); ok && flag.Name == "model" {
		return modelList(models), nil
	}
	switch v := value.(type) {
	case map[string]any, nil:
		return nil, fmt.Errorf("configuration file %s: %s: want a value, not %T", f.name, flag.Name, v)
	case []any:
		if !flag.IsSlice() {
			return nil, fmt.Errorf("configuration file %s: %s: a list, want one value", f.name, flag.Name)
		}
		return v, nil
	}
	return fmt.Sprint(value), nil
}

// modelList lets a file spell models as a mapping of names to paths; they load by name.
func modelList(models map[string]any) []any {
	list := make([]any, 0, len(models))
	for _, name := range slices.Sorted(maps.Keys(models)) {
		list = append(list, name+"="+strings.TrimSpace(fmt.Sprint(models[name])))
	}
	return list
}
