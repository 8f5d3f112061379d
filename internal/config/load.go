package config

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"

	"github.com/alecthomas/kong"
)

// ErrExit means that the arguments asked for something that has been done (--help, --version): the program ends with success.
var ErrExit = errors.New("done")

// Load reads flags, then what they leave open from the environment, the configuration file and the defaults, and validates the whole.
// The error lists every fault; it is ErrExit after --help or --version, whose text goes to stdout.
func Load(args []string, version string, stdout io.Writer) (*Config, error) {
	return load(program{"inferno-server", true, "Serves Llama-family models over gRPC. `inferno-server doctor` says what this machine can serve, `inferno-server bench` how fast; `inferno-server token` makes a token for an access file."},
		args, version, stdout, (*Config).Validate)
}

// LoadBench is Load for `inferno-server bench`, whose own flags go to the struct that own points to.
func LoadBench(own any, args []string, version string, stdout io.Writer) (*Config, error) {
	p := program{"inferno-server bench", false, "Measures a model on its device, without the services in front: decode, prefill, or a mixed load."}
	return load(p, args, version, stdout, (*Config).Validate, kong.Embed(own))
}

// LoadDoctor is Load for `inferno-server doctor`, which needs no model.
func LoadDoctor(args []string, version string, stdout io.Writer) (*Config, error) {
	return load(program{"inferno-server doctor", false, "Says what the card, or the CPU, is and can do, and whether models fit."},
		args, version, stdout, (*Config).validateSettings)
}

// program is a command: its name, whether it serves, and what --help says of it.
type program struct {
	name        string
	serves      bool
	description string
}

func load(
	p program, args []string, version string, stdout io.Writer, validate func(*Config) error, own ...kong.Option,
) (*Config, error) {
	c, unknown, err := parse(p, args, version, stdout, nil, own...)
	if errors.Is(err, ErrExit) {
		return nil, err
	}
	if c != nil && c.File != "" {
		f, unreadable := readFile(c.File)
		if unreadable == nil {
			c, _, err = parse(p, args, version, stdout, f, own...)
		}
		err = errors.Join(err, unreadable)
	}
	if err == nil {
		err = validate(c)
	}
	if err = errors.Join(unknown, err); err != nil {
		return nil, err
	}
	return c, nil
}

// settings is Config without its Validate, which kong would call before the file is read.
type settings Config

// parse fills a Config. f, which may be nil, ranks below flags and environment. unknown names the variables that are no settings.
func parse(p program, args []string, version string, stdout io.Writer, f *file, own ...kong.Option) (c *Config, unknown, err error) {
	var cli struct {
		settings
		Version kong.VersionFlag `env:"-" help:"Print the version and exit."`
	}
	exited := false
	parser, err := kong.New(&cli, append(own,
		kong.Name(p.name),
		kong.Description(p.description),
		kong.Vars{"version": version},
		kong.DefaultEnvars("INFERNO"),
		kong.Writers(stdout, stdout),
		kong.Exit(func(int) { exited = true }),
		kong.Resolvers(resolver{f}),
	)...)
	if err != nil {
		return nil, nil, fmt.Errorf("configuration: %w", err)
	}
	if !p.serves {
		hideServing(parser.Model)
	}
	values := recordUnreadable(parser.Model)
	given, err := parser.Parse(args)
	if exited {
		return nil, nil, ErrExit
	}
	err = errors.Join(append(values.faults, err)...)
	if err == nil && !p.serves {
		err = refuseServing(p.name, given)
	}
	loaded := Config(cli.settings)
	return &loaded, unknownVariables(parser.Model), err
}

// unreadable are the values that could not be read. kong would stop at the first.
type unreadable struct{ faults []error }

// recordUnreadable has the values of flags read on after one that cannot be.
func recordUnreadable(app *kong.Application) *unreadable {
	all := &unreadable{}
	for _, flag := range app.Flags {
		if r := (recorder{flag.Mapper, all}); flag.IsBool() {
			flag.Mapper = boolRecorder{r}
		} else {
			flag.Mapper = r
		}
	}
	return all
}

type recorder struct {
	kong.Mapper
	all *unreadable
}

func (r recorder) Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	err := r.Mapper.Decode(ctx, target)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", ctx.Value.ShortSummary(), err)
	if !slices.ContainsFunc(r.all.faults, func(known error) bool { return known.Error() == err.Error() }) {
		r.all.faults = append(r.all.faults, err)
	}
	return nil
}

// boolRecorder is of a flag that needs no value, which kong knows by its mapper.
type boolRecorder struct{ recorder }

func (boolRecorder) IsBool() bool { return true }

// hideServing leaves the flags of the services out of --help.
func hideServing(app *kong.Application) {
	for _, flag := range app.Flags {
		flag.Hidden = flag.Hidden || flag.Tag.Has("serve")
	}
}

// refuseServing refuses flags of the services on the command line of a command that has none.
func refuseServing(command string, given *kong.Context) error {
	var faults []error
	for _, step := range given.Path {
		if step.Flag != nil && !step.Resolved && step.Flag.Tag.Has("serve") {
			faults = append(faults, fmt.Errorf("%s: has no effect in %s, which serves nothing", step.Flag.Name, command))
		}
	}
	return errors.Join(faults...)
}

// resolver gives flags the values that the command line leaves open. Kong alone would let a file override the environment, ignore keys
// that it does not know, and take a variable for one model.
type resolver struct {
	file *file // nil: none
}

// Validate refuses keys of the file that are no settings.
func (r resolver) Validate(app *kong.Application) error {
	if r.file == nil {
		return nil
	}
	return r.file.unknownKeys(app.Flags)
}

// Resolve returns nil where kong reads the flag's variable itself, or nobody has a value.
func (r resolver) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if value, set := lookUp(flag.Envs); set {
		if flag.Name == "model" {
			return splitModels(value), nil
		}
		return nil, nil
	}
	if r.file == nil {
		return nil, nil
	}
	return r.file.value(flag.Name)
}
