// Command inferno is a person's tool: it generates, chats, scores, embeds, tokenizes, looks at models and health, and measures. But for
// tokenizing with a file of one's own it is a client of a running server. All work happens on the goroutine of main, but for the requests of
// bench and the input of chat.
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
	Chat       chatCommand       `cmd:"" help:"Talk to a model."`
	Tokenize   tokenizeCommand   `cmd:"" help:"Turn text into token ids: of the arguments, or JSON lines of standard input."`
	Detokenize detokenizeCommand `cmd:"" help:"Turn token ids into text: of the arguments, or JSON lines of standard input."`
	Score      scoreCommand      `cmd:"" help:"Say how likely texts are: the arguments, or JSON lines of standard input."`
	Embed      embedCommand      `cmd:"" help:"Turn texts into vectors: the arguments, or JSON lines of standard input."`
	Models     modelsCommand     `cmd:"" help:"List the models of a server, load and unload them."`
	Instances  instancesCommand  `cmd:"" help:"List the instances of the fleet."`
	Health     healthCommand     `cmd:"" help:"Show the state of a server. Exit code 0 only when it is SERVING."`
	Bench      benchCommand      `cmd:"" help:"Measure latency and throughput of a server."`

	Version kong.VersionFlag `help:"Print the version and exit."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c := newConsole()
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	c.interrupts = interrupts
	os.Exit(run(ctx, os.Args[1:], c))
}

func run(ctx context.Context, args []string, c *console) int {
	var cli commands
	parser, err := kong.New(&cli, kong.Name("inferno"), kong.Writers(c.out, c.err),
		kong.Description("Talk to an Inferno server."), kong.Vars{"version": version},
		kong.Bind(c))
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
	if command.Command() != "chat" { // which takes interrupts for itself
		var stop context.CancelFunc
		ctx, stop = c.untilInterrupt(ctx)
		defer stop()
	}
	command.BindTo(ctx, (*context.Context)(nil))
	if err := command.Run(); err != nil {
		return c.report(err)
	}
	return 0
}

// console is where a command reads and writes.
type console struct {
	in       io.Reader
	out, err io.Writer
	inTerm   bool // in is a terminal
	outTerm  bool // out is a terminal
	errTerm  bool // err is a terminal
	errWidth func() int

	interrupts <-chan os.Signal // Ctrl-C; nil for none
}

// untilInterrupt is ctx until the first interrupt. The caller ends it.
func (c *console) untilInterrupt(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-c.interrupts:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

func newConsole() *console {
	return &console{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		inTerm:  term.IsTerminal(int(os.Stdin.Fd())),
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
	if errors.Is(err, errQuiet) {
		return exitFailed
	}
	fmt.Fprintln(c.err, "inferno:", told(err))
	if errors.Is(err, errUsage) {
		return exitUsage
	}
	return exitFailed
}

// told is an error in words.
func told(err error) string {
	var failed interface{ GRPCStatus() *status.Status }
	if errors.As(err, &failed) {
		s := failed.GRPCStatus()
		return fmt.Sprintf("%s: %s", code.Code(s.Code()), s.Message())
	}
	return err.Error()
}
