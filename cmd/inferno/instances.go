package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/inferno-serve/inferno/client"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

type instancesCommand struct {
	remote `embed:""`

	Model string `help:"Only instances that hold this model."`
	Watch bool   `help:"Print the table again with each change, until interrupted."`
}

// leaseRefresh is how old what is told of leases may become in a table that is watched. Renewals are no changes of the fleet.
const leaseRefresh = time.Second

// Run lists the instances of the fleet, as the server's registry knows them.
func (i *instancesCommand) Run(ctx context.Context, c *console) error {
	server, err := i.dial()
	if err != nil {
		return err
	}
	defer server.Close()
	if !i.Watch {
		list, err := i.list(ctx, server)
		if err != nil {
			return err
		}
		return i.print(c, list)
	}
	if i.JSON {
		err = i.watchJSON(ctx, c, server)
	} else {
		err = i.watchTable(ctx, c, server)
	}
	if ctx.Err() != nil {
		return nil // as asked
	}
	return err
}

func (i *instancesCommand) list(ctx context.Context, server *client.Client) ([]*infernov1.Instance, error) {
	list, err := server.Registry().ListInstances(ctx, &infernov1.ListInstancesRequest{Model: i.Model, WithLeases: true})
	return list.GetInstances(), err
}

func (i *instancesCommand) watchJSON(ctx context.Context, c *console, server *client.Client) error {
	stream, err := server.Registry().WatchInstances(ctx, &infernov1.WatchInstancesRequest{Model: i.Model})
	for err == nil {
		var change *infernov1.WatchInstancesResponse
		if change, err = stream.Recv(); err == nil {
			err = c.writeProto(change)
		}
	}
	return err
}

// watchTable prints the table after each change; on a terminal, where it stands in place of the one before, also as leases get shorter.
func (i *instancesCommand) watchTable(ctx context.Context, c *console, server *client.Client) error {
	both, ctx := errgroup.WithContext(ctx)
	stream, err := server.Registry().WatchInstances(ctx, &infernov1.WatchInstancesRequest{Model: i.Model})
	if err != nil {
		return err
	}
	changes := make(chan *infernov1.WatchInstancesResponse)
	both.Go(func() error {
		for {
			change, err := stream.Recv()
			if err != nil {
				return err
			}
			select {
			case changes <- change:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	both.Go(func() error {
		var refresh <-chan time.Time
		if c.outTerm {
			ticker := time.NewTicker(leaseRefresh)
			defer ticker.Stop()
			refresh = ticker.C
		}
		table := fleetTable{instances: map[string]*infernov1.Instance{}}
		for {
			select {
			case change := <-changes:
				table.follow(change)
			case <-refresh:
				if !table.shown {
					continue
				}
				table.looked = time.Time{}
			case <-ctx.Done():
				return ctx.Err()
			}
			if time.Since(table.looked) >= leaseRefresh {
				list, err := i.list(ctx, server)
				if err != nil {
					list = nil // the registry is away: what is known of the fleet stays, its leases are not known
				}
				table.lookAtLeases(list)
			}
			if err := i.redraw(c, &table); err != nil {
				return err
			}
		}
	})
	return both.Wait()
}

// fleetTable is what a watch knows.
type fleetTable struct {
	instances map[string]*infernov1.Instance // by id
	leases    map[string]*durationpb.Duration
	looked    time.Time // at the leases
	shown     bool
}

func (t *fleetTable) lookAtLeases(list []*infernov1.Instance) {
	t.looked, t.leases = time.Now(), map[string]*durationpb.Duration{}
	for _, one := range list {
		t.leases[one.GetId()] = one.GetLeaseRemaining()
	}
}

// redraw prints the fleet: over the table before it on a terminal, else below it.
func (i *instancesCommand) redraw(c *console, t *fleetTable) error {
	all := make([]*infernov1.Instance, 0, len(t.instances))
	for id, one := range t.instances {
		one.LeaseRemaining = t.leases[id]
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b *infernov1.Instance) int { return strings.Compare(a.GetId(), b.GetId()) })
	switch {
	case c.outTerm:
		fmt.Fprint(c.out, "\x1b[H\x1b[2J")
	case t.shown:
		fmt.Fprintln(c.out)
	}
	t.shown = true
	return i.print(c, all)
}

// follow takes a change into the fleet.
func (t *fleetTable) follow(change *infernov1.WatchInstancesResponse) {
	switch e := change.GetEvent().(type) {
	case *infernov1.WatchInstancesResponse_Snapshot:
		clear(t.instances)
		for _, one := range e.Snapshot.GetInstances() {
			t.instances[one.GetId()] = one
		}
	case *infernov1.WatchInstancesResponse_Put:
		t.instances[e.Put.GetId()] = e.Put
	case *infernov1.WatchInstancesResponse_RemovedId:
		delete(t.instances, e.RemovedId)
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

// lease is what is left of an instance's lease, where the registry tells. Of one that lives it is never far from the whole.
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
