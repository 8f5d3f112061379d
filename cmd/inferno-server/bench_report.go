package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/inferno-serve/inferno/internal/backend"
)

// benchReport is all that was measured. Bandwidths and rates are in GB/s, GB being 10⁹ bytes.
type benchReport struct {
	Version     string           `json:"version"`
	Device      string           `json:"device"`
	Model       string           `json:"model"`
	WeightType  string           `json:"weight_type"`
	Parameters  int64            `json:"parameters"`
	WeightBytes int64            `json:"weight_bytes"`
	Bandwidth   float64          `json:"bandwidth"` // of the device's memory: two reads, one write
	Decode      []decodeRow      `json:"decode,omitempty"`
	Prefill     []prefillRow     `json:"prefill,omitempty"`
	Mixed       *mixedRow        `json:"mixed,omitempty"`
	Profiles    []profileOfBatch `json:"profiles,omitempty"`
	PeakBytes   int64            `json:"peak_resident_bytes"` // of the host's memory
}

type profileOfBatch struct {
	Batch int          `json:"batch"`
	Ops   []profileRow `json:"ops"`
}

func (r *benchReport) describe(l *backend.Loaded) {
	r.Device, r.Model, r.WeightType = l.Info.Device, l.Info.Name, l.Info.WeightType
	r.Parameters, r.WeightBytes = l.Info.Parameters, l.Info.WeightBytes
}

// measure does a short round before each that counts, so that nothing happens in it for the first time.
func (r *benchReport) measure(ctx context.Context, m *measurement, f *benchFlags, workload []size) error {
	for _, what := range f.Run {
		switch what {
		case "decode":
			for _, batch := range f.Batch {
				if _, err := m.runAll(ctx, slices.Repeat([]size{{1, minDecodeTokens}}, batch)); err != nil {
					return err
				}
				row, err := m.decode(ctx, batch, size{f.ContextTokens, f.MaxTokens}, r.Bandwidth)
				if err != nil {
					return err
				}
				r.Decode = append(r.Decode, row)
			}
		case "prefill":
			for _, prompt := range f.PromptTokens {
				if _, err := m.runAll(ctx, []size{{prompt, 1}}); err != nil {
					return err
				}
				row, err := m.prefill(ctx, prompt, f.Repeat)
				if err != nil {
					return err
				}
				r.Prefill = append(r.Prefill, row)
			}
		case "mixed":
			row, err := m.mixed(ctx, workload)
			if err != nil {
				return err
			}
			r.Mixed = &row
		}
	}
	r.PeakBytes = usage().peak()
	return nil
}

func (r *benchReport) profile(ctx context.Context, m *measurement, f *benchFlags) error {
	for _, batch := range f.Batch {
		ops, err := m.profile(ctx, batch, size{f.ContextTokens, f.MaxTokens})
		if err != nil {
			return err
		}
		r.Profiles = append(r.Profiles, profileOfBatch{batch, ops})
	}
	r.PeakBytes = usage().peak()
	return nil
}

func (r *benchReport) print(out io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(r)
	}
	fmt.Fprintf(out, "%s on %s\n", r.Model, r.Device)
	fmt.Fprintf(out, "%.1f million parameters, %s, %.2f GB; %.0f GB/s memory bandwidth (two reads, one write)\n",
		float64(r.Parameters)/1e6, r.WeightType, float64(r.WeightBytes)/1e9, r.Bandwidth)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(format string, args ...any) { fmt.Fprintf(w, format+"\t\n", args...) }
	if len(r.Decode) > 0 {
		row("\ndecode: batch\tcontext\tsteps\tms/step\tp99\ttok/s\tGB/step\tGB/s\t%% of bandwidth\thost µs/step\tCPU µs/token")
	}
	for _, d := range r.Decode {
		row("%d\t%d\t%d\t%.3f\t%.3f\t%.0f\t%.3f\t%.0f\t%.0f\t%.1f\t%.1f",
			d.Batch, d.Context, d.Steps, d.Milliseconds, d.P99, d.TokensPerSecond, d.Gigabytes, d.Rate, 100*d.Share, d.Host, d.CPU)
	}
	if len(r.Prefill) > 0 {
		row("\nprefill: tokens\tprompts\tTTFT ms\tslowest\ttok/s")
	}
	for _, p := range r.Prefill {
		row("%d\t%d\t%.2f\t%.2f\t%.0f", p.Prompt, p.Repeat, p.Milliseconds, p.Slowest, p.TokensPerSecond)
	}
	if m := r.Mixed; m != nil {
		row("\nmixed: requests\tprompt tokens\toutput tokens\tseconds\toutput tok/s\tCPU µs/token\tsteps\tpreemptions")
		row("%d\t%d\t%d\t%.2f\t%.0f\t%.1f\t%d\t%d",
			m.Requests, m.PromptTokens, m.OutputTokens, m.Seconds, m.TokensPerSecond, m.CPU, m.Steps, m.Preemptions)
		row("\nof its steps: decode, ms\twith prompts\tms\tprompt tokens each\twaited for by the device\tµs each")
		row("%.3f\t%d\t%.3f\t%.0f\t%d\t%.1f", m.DecodeStep, m.MixedSteps, m.MixedStep, m.MixedPrompt, m.Waited, m.Idle)
	}
	for _, p := range r.Profiles {
		row("\nbatch %d, each op by itself\tshape\tcalls/step\tµs/call\tµs/step\tGB/s", p.Batch)
		total := 0.0
		for _, op := range p.Ops {
			total += op.Step
			row("%s\t%s\t%d\t%.2f\t%.1f\t%.0f", op.Op, op.Shape, op.Calls, op.Microseconds, op.Step, op.Rate)
		}
		row("sum\t\t\t\t%.1f\t", total)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\npeak resident set: %.0f MB\n", float64(r.PeakBytes)/1e6)
	return err
}
