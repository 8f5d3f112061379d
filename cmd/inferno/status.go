package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

type healthCommand struct {
	remote `embed:""`

	Components []string `arg:"" optional:"" name:"component" help:"Only these components; the verdict stays that on the whole server."`
}

// Run shows the state of a server, and fails unless it serves: one that is DEGRADED does, and an orchestrator that asks this way must not
// take it out of service.
func (h *healthCommand) Run(ctx context.Context, c *console) error {
	server, err := h.dial()
	if err != nil {
		return err
	}
	defer server.Close()
	answer, err := server.Health().Check(ctx, &infernov1.CheckRequest{Components: h.Components})
	if err != nil {
		return err
	}
	report := answer.GetReport()
	if h.JSON {
		err = c.writeProto(report)
	} else {
		err = printHealth(c, report)
	}
	if err != nil {
		return err
	}
	serving, degraded := infernov1.HealthState_HEALTH_STATE_SERVING, infernov1.HealthState_HEALTH_STATE_DEGRADED
	if state := report.GetState(); state != serving && state != degraded {
		return errQuiet
	}
	return nil
}

func printHealth(c *console, report *infernov1.HealthReport) error {
	fmt.Fprintln(c.out, stateName(report.GetState()))
	table := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	for _, part := range report.GetComponents() {
		fmt.Fprintf(table, "  %s\t%s\tsince %s\t%s\n", part.GetName(), stateName(part.GetState()),
			part.GetSince().AsTime().UTC().Format(time.RFC3339), part.GetReason())
	}
	return table.Flush()
}

func stateName(s infernov1.HealthState) string { return enumName(s, "HEALTH_STATE_") }
