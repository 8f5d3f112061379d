// Command inferno is a person's tool: it generates, tokenizes, looks at models and health, and measures. But for tokenizing with a file
// of one's own it is a client of a running server. All work happens on the goroutine of main, but for the requests of bench.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"unicode/utf8"

	"github.com/alecthomas/kong"
	"golang.org/x/term"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/status"
)

// version is stamped by the build.
var version = "dev"

// Exit codes beside 0.
const (
	exitFailed = 1 // a call failed, or what it told is bad news
	exitUsage  = 2
)

type commands struct {
	Generate   generateCommand   `cmd:"" help:"Generate text from a prompt."`
	Tokenize   tokenizeCommand   `cmd:"" help:"Turn text into token ids: of the arguments, or JSON lines of standard input."`
	Detokenize detokenizeCommand `cmd:"" help:"Turn token ids into text: of the arguments, or JSON lines of standard input."`
	Models     modelsCommand     `cmd:"" help:"List the models of a server."`
	Health     healthCommand     `cmd:"" help:"Show the state of a server. Exit code 0 only when it is SERVING."`
	Bench      benchCommand      `cmd:"" help:"Measure latency and throughput of a server."`

	Version kong.VersionFlag `help:"Print the version and exit."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], newConsole()))
}

func run(ctx context.Context, args []string, c *console) int {
	var cli commands
	parser, err := kong.New(&cli, kong.Name("inferno"), kong.Writers(c.out, c.err),
		kong.Description("Talk to an Inferno server."), kong.Vars{"version": version},
		kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(c))
	if err != nil {
		panic(fmt.Sprintf("inferno: the commands' tags: %v", err)) // fixed at compile time
	}
	for i, arg := range args { // the parser would put U+FFFD in their place
		if !utf8.ValidString(arg) {
			fmt.Fprintf(c.err, "inferno: argument %d, %.100q, is not valid UTF-8\n", i+1, arg)
			return exitUsage
		}
	}
	command, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintln(c.err, "inferno:", err)
		return exitUsage
	}
	if err := command.Run(); err != nil {
		return c.report(err)
	}
	return 0
}

// console is where a command reads and writes.
type console struct {
	in       io.Reader
	out, err io.Writer
	outTerm  bool // out is a terminal
	errTerm  bool // err is a terminal
	errWidth func() int
}

func newConsole() *console {
	return &console{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		outTerm: term.IsTerminal(int(os.Stdout.Fd())), errTerm: term.IsTerminal(int(os.Stderr.Fd())),
		errWidth: func() int {
			if width, _, err := term.GetSize(int(os.Stderr.Fd())); err == nil {
				return width
			}
			return 80
		},
	}
}

// errUsage marks errors that parsing could not find.
var errUsage = errors.New("usage")

// errQuiet marks bad news that has been told already.
var errQuiet = errors.New("bad news")

// report tells why a command failed: "NOT_FOUND: model "x": unknown model" where a server says so.
func (c *console) report(err error) int {
	var failed interface{ GRPCStatus() *status.Status }
	switch {
	case errors.Is(err, errQuiet):
		return exitFailed
	case errors.As(err, &failed):
		s := failed.GRPCStatus()
		fmt.Fprintf(c.err, "inferno: %s: %s\n", code.Code(s.Code()), s.Message())
	default:
		fmt.Fprintln(c.err, "inferno:", err)
	}
	if errors.Is(err, errUsage) {
		return exitUsage
	}
	return exitFailed
}
