package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

type instancesCommand struct {
	remote `embed:""`

	Model string `help:"Only instances that hold this model."`
	Watch bool   `help:"Print the table again with each change, until interrupted."`
}

// Run lists the instances of the fleet, as the server's registry knows them.
func (i *instancesCommand) Run(ctx context.Context, c *console) error {
	server, err := i.dial()
	if err != nil {
		return err
	}
	defer server.Close()
	if !i.Watch {
		list, err := server.Registry().ListInstances(ctx, &infernov1.ListInstancesRequest{Model: i.Model})
		if err != nil {
			return err
		}
		return i.print(c, list.GetInstances())
	}
	stream, err := server.Registry().WatchInstances(ctx, &infernov1.WatchInstancesRequest{Model: i.Model})
	if err != nil {
		return err
	}
	fleet := map[string]*infernov1.Instance{}
	for first := true; ; first = false {
		change, err := stream.Recv()
		if ctx.Err() != nil {
			return nil // as asked
		}
		if err != nil {
			return err
		}
		if i.JSON {
			err = c.writeProto(change)
		} else {
			err = i.redraw(c, fleet, change, first)
		}
		if err != nil {
			return err
		}
	}
}

// redraw prints the fleet after a change: over the table before it on a terminal, else below it.
func (i *instancesCommand) redraw(
	c *console, fleet map[string]*infernov1.Instance, change *infernov1.WatchInstancesResponse, first bool,
) error {
	follow(fleet, change)
	all := make([]*infernov1.Instance, 0, len(fleet))
	for _, one := range fleet {
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b *infernov1.Instance) int { return strings.Compare(a.GetId(), b.GetId()) })
	switch {
	case c.outTerm:
		fmt.Fprint(c.out, "\x1b[H\x1b[2J")
	case !first:
		fmt.Fprintln(c.out)
	}
	return i.print(c, all)
}

// follow takes a change into the fleet, by id.
func follow(fleet map[string]*infernov1.Instance, change *infernov1.WatchInstancesResponse) {
	switch e := change.GetEvent().(type) {
	case *infernov1.WatchInstancesResponse_Snapshot:
		clear(fleet)
		for _, one := range e.Snapshot.GetInstances() {
			fleet[one.GetId()] = one
		}
	case *infernov1.WatchInstancesResponse_Put:
		fleet[e.Put.GetId()] = e.Put
	case *infernov1.WatchInstancesResponse_RemovedId:
		delete(fleet, e.RemovedId)
	}
}

func (i *instancesCommand) print(c *console, all []*infernov1.Instance) error {
	if i.JSON {
		for _, one := range all {
			if err := c.writeProto(one); err != nil {
				return err
			}
		}
		return nil
	}
	table := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "INSTANCE\tADDRESS\tMODEL\tSTATE\tRUNNING\tQUEUED\tKV\tTOKENS/S\tLEASE\tVERSION")
	for _, one := range all {
		load := one.GetLoad()
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%d\t%.0f%%\t%.0f\t%s\t%s\n", printable(one.GetId()), printable(one.GetAddress()),
			modelNames(one.GetModels()), enumName(one.GetState(), "INSTANCE_STATE_"), load.GetRunningRequests(), load.GetQueuedRequests(),
			100*load.GetKvUse(), load.GetTokensPerSecond(), lease(one), printable(one.GetVersion()))
	}
	return table.Flush()
}

// lease is what is left of an instance's lease, where the registry tells.
func lease(one *infernov1.Instance) string {
	if one.LeaseRemaining == nil {
		return "-"
	}
	return one.GetLeaseRemaining().AsDuration().Round(100 * time.Millisecond).String()
}

// modelNames marks models that are not ready.
func modelNames(models []*infernov1.InstanceModel) string {
	names := make([]string, len(models))
	for n, m := range models {
		names[n] = printable(m.GetName())
		if m.GetState() != infernov1.ModelState_MODEL_STATE_READY {
			names[n] += " (" + strings.ToLower(enumName(m.GetState(), "MODEL_STATE_")) + ")"
		}
	}
	return strings.Join(names, ",")
}

// printable keeps what others wrote into the registry from driving the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, text)
}
