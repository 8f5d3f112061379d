package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

type modelsCommand struct {
	List   listModelsCommand  `cmd:"" default:"withargs" help:"List the models of a server."`
	Load   loadModelCommand   `cmd:"" help:"Load a model on a running server, from a folder that it was started with (--model-root). An interrupt leaves the load alone; unload undoes it."`
	Unload unloadModelCommand `cmd:"" help:"Unload a model once its requests have ended, or undo its load."`
}

type listModelsCommand struct {
	remote `embed:""`
}

// Run lists the models of a server.
func (m *listModelsCommand) Run(ctx context.Context, c *console) error {
	server, err := m.dial()
	if err != nil {
		return err
	}
	defer server.Close()
	list, err := server.Registry().ListModels(ctx, &infernov1.ListModelsRequest{})
	if err != nil {
		return err
	}
	if m.JSON {
		for _, model := range list.GetModels() {
			if err := c.writeProto(model); err != nil {
				return err
			}
		}
		return nil
	}
	table := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tSTATE\tARCHITECTURE\tWEIGHTS\tCONTEXT\tDEVICE\tREASON")
	for _, model := range list.GetModels() {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s %s\t%d\t%s\t%s\n", model.GetName(), modelState(model),
			model.GetArchitecture(), count(model.GetParameters()), model.GetWeightType(), model.GetMaxContext(), model.GetDevice(),
			model.GetReason())
	}
	return table.Flush()
}

type loadModelCommand struct {
	remote `embed:""`

	Name string `arg:"" help:"Name that requests will use."`
	Path string `arg:"" help:"Hugging Face directory or GGUF file, below a model root of the server."`
	Pin  bool   `help:"Never unload it to make room for another."`
}

// Run has a model loaded and tells how far it has come: a bar on a terminal, a line for each quarter elsewhere.
func (l *loadModelCommand) Run(ctx context.Context, c *console) error {
	server, err := l.dial()
	if err != nil {
		return err
	}
	defer server.Close()
	stream, err := server.Registry().LoadModel(ctx, &infernov1.LoadModelRequest{Name: l.Name, Path: l.Path, Pinned: l.Pin})
	if err != nil {
		return err
	}
	told := loadTold{c: c}
	defer told.end()
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case l.JSON:
			if err := c.writeProto(m); err != nil {
				return err
			}
		case m.GetModel().GetState() == infernov1.ModelState_MODEL_STATE_READY:
			told.end()
			model := m.GetModel()
			fmt.Fprintf(c.out, "%s  %s  revision %s  %s %s\n", model.GetName(), modelState(model), model.GetRevision(),
				count(model.GetParameters()), model.GetWeightType())
		default:
			told.tell(m)
		}
	}
}

// loadTold is what a person has been told of a load.
type loadTold struct {
	c       *console
	quarter uint64
	drawn   bool // a bar stands on the terminal
}

func (t *loadTold) tell(m *infernov1.LoadModelResponse) {
	total := m.GetTotalBytes()
	if total == 0 {
		return
	}
	percent := 100 * m.GetLoadedBytes() / total
	text := fmt.Sprintf("loading %s: %d%% of %sB", m.GetModel().GetName(), percent, metric(total))
	if !t.c.errTerm {
		if quarter := percent / 25; quarter > t.quarter {
			t.quarter = quarter
			fmt.Fprintln(t.c.err, text)
		}
		return
	}
	const width = 40
	full := int(width * percent / 100)
	if t.c.errWidth() > len(text)+width+3 {
		text += " [" + strings.Repeat("#", full) + strings.Repeat(" ", width-full) + "]"
	}
	fmt.Fprintf(t.c.err, "\r%s\x1b[K", text)
	t.drawn = true
}

// end takes the bar away. Idempotent.
func (t *loadTold) end() {
	if t.drawn {
		fmt.Fprint(t.c.err, "\r\x1b[K")
		t.drawn = false
	}
}

type unloadModelCommand struct {
	remote `embed:""`

	Name         string         `arg:"" help:"The model's name."`
	DrainTimeout *time.Duration `placeholder:"DURATION" help:"Time that its requests have to finish, such as 30s or 0s; the server's own when not given."`
}

// Run has a model unloaded and waits until it is gone.
func (u *unloadModelCommand) Run(ctx context.Context, c *console) error {
	server, err := u.dial()
	if err != nil {
		return err
	}
	defer server.Close()
	req := &infernov1.UnloadModelRequest{Name: u.Name}
	if u.DrainTimeout != nil {
		req.DrainTimeout = durationpb.New(*u.DrainTimeout)
	}
	answer, err := server.Registry().UnloadModel(ctx, req)
	if err != nil {
		return err
	}
	model := answer.GetModel()
	if u.JSON {
		return c.writeProto(model)
	}
	fmt.Fprintf(c.out, "%s  %s  %s\n", model.GetName(), modelState(model), model.GetReason())
	return nil
}

func modelState(m *infernov1.Model) string { return enumName(m.GetState(), "MODEL_STATE_") }

// units of large numbers, as weights are counted and as bytes are.
var (
	weightUnits = []string{"B", "M", "k", ""}
	byteUnits   = []string{" G", " M", " k", " "}
)

// count shows a number of weights to three digits: "135M".
func count(n uint64) string { return shorten(n, weightUnits) }

// metric shows a number of bytes to three digits, without the B: "98.4 M".
func metric(n uint64) string { return shorten(n, byteUnits) }

func shorten(n uint64, units []string) string {
	for i, size := range []uint64{1e9, 1e6, 1e3} {
		if n >= size {
			return fmt.Sprintf("%.3g%s", float64(n)/float64(size), units[i])
		}
	}
	return fmt.Sprint(n) + units[3]
}
