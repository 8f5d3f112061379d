package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/inferno-serve/inferno/internal/load"
)

// printResults prints a table of what clients saw, and one of what it cost.
func printResults(w io.Writer, results []*load.Result) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	what := "concurrency"
	if len(results) > 0 && results[0].Rate > 0 {
		what = "rate/s"
	}
	fmt.Fprintln(table, what+"\trequests\tfailed\tcancelled\tseconds\toutput tok/s\tprompt tok/s\tTTFT ms p50\tp90\tp99\t"+
		"inter-token ms p50\tp90\tp99\tend to end ms p50\tp90\tp99\tgood/s\t")
	for _, r := range results {
		fmt.Fprintf(table, "%g\t%d\t%d\t%d\t%.2f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.2f\t%.2f\t%.2f\t%.1f\t%.1f\t%.1f\t%.2f\t\n",
			r.Load(), r.Requests, r.Failed, r.Cancelled, r.Seconds, r.OutputPerSecond, r.PromptPerSecond,
			r.FirstToken.P50, r.FirstToken.P90, r.FirstToken.P99, r.InterToken.P50, r.InterToken.P90, r.InterToken.P99,
			r.Total.P50, r.Total.P90, r.Total.P99, r.GoodPerSecond)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	fmt.Fprintln(table, what+"\tCPU µs a token, bench\tserver\tqueued mean\tmax\trunning mean\tmax\tKV used mean\tmax\t"+
		"preemptions\tcached tokens\t")
	for _, r := range results {
		s := r.Server
		if s == nil {
			s = &load.Server{}
		}
		fmt.Fprintf(table, "%g\t%.1f\t%s\t%s\t%s\t%s\t%d\t%d\t\n", r.Load(), r.GeneratorCPU, figure(s.CPUPerToken, "%.1f"),
			levels(s.Queued, "%.1f", 1), levels(s.Running, "%.1f", 1), levels(s.KVUsed, "%.0f %%", 100), r.Preemptions, r.CachedPromptTokens)
	}
	return table.Flush()
}

// figure is "-" for what the server did not tell.
func figure(v *float64, format string) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf(format, *v)
}

// levels fills two columns.
func levels(l *load.Level, format string, scale float64) string {
	if l == nil {
		return "-\t-"
	}
	return fmt.Sprintf(format+"\t"+format, l.Mean*scale, l.Max*scale)
}

// failures says at which points requests failed that should not have.
func failures(results []*load.Result, w *load.Workload) error {
	var faults []error
	for _, r := range results {
		if r.Unexpected(w) == 0 {
			continue
		}
		var counts []string
		for _, name := range slices.Sorted(maps.Keys(r.Errors)) {
			counts = append(counts, fmt.Sprintf("%s %d", name, r.Errors[name]))
		}
		faults = append(faults, fmt.Errorf("%s: %d of %d requests failed (%s), the first with: %s",
			pointName(r.Concurrency, r.Rate), r.Failed, r.Requests, strings.Join(counts, ", "), r.Error))
	}
	return errors.Join(faults...)
}
