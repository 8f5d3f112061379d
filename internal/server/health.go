package server

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/inferno-serve/inferno/internal/health"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// healthService is HealthService.
type healthService struct {
	infernov1.UnimplementedHealthServiceServer
	*Server
}

// Check tells the state now.
func (s healthService) Check(_ context.Context, req *infernov1.CheckRequest) (*infernov1.CheckResponse, error) {
	if err := checkComponents(req); err != nil {
		return nil, err
	}
	report, err := chosen(s.Health(), req.GetComponents())
	if err != nil {
		return nil, err
	}
	return &infernov1.CheckResponse{Report: report}, nil
}

// Watch tells the state now and after every change, until the server drains.
func (s healthService) Watch(req *infernov1.WatchRequest, stream infernov1.HealthService_WatchServer) error {
	if err := checkComponents(req); err != nil {
		return err
	}
	var last *infernov1.HealthReport
	return s.watchHealth(stream.Context(), func(r health.Report) error {
		report, err := chosen(r, req.GetComponents())
		if err != nil || proto.Equal(report, last) {
			return err
		}
		last = report
		return stream.Send(&infernov1.WatchResponse{Report: report})
	})
}

// lookAgain is how often a watch looks by itself, for what comes with time alone: that the checks have ceased.
const lookAgain = time.Second

// watchHealth calls send with each report, also with one that it has been given before. A watch left open would keep the server from
// stopping, so that it ends with the drain, after a last report that says so.
func (s *Server) watchHealth(ctx context.Context, send func(health.Report) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reports := s.health.Watch(ctx)
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			if err := send(s.Health()); err != nil {
				return err
			}
		case <-s.drained:
			if err := send(s.Health()); err != nil {
				return err
			}
			return errStopping
		case r, open := <-reports:
			if !open {
				return context.Cause(ctx)
			}
			if err := send(s.asItCounts(r)); err != nil {
				return err
			}
		}
	}
}

// Health is the report as it counts now, which the services tell.
func (s *Server) Health() health.Report { return s.asItCounts(s.health.Report()) }

// asItCounts is the checker's report now. A server that drains serves no more, whatever its parts could do.
func (s *Server) asItCounts(r health.Report) health.Report {
	r = r.Now(time.Now())
	if s.live.isClosed() {
		r.State = health.Draining
	}
	return r
}

// chosen is the report of these components, or of all where there are no names.
func chosen(r health.Report, names []string) (*infernov1.HealthReport, error) {
	r, missing := r.Select(names)
	if len(missing) > 0 {
		return nil, status.Errorf(codes.NotFound, "components: %s is not a component of this server", quote(missing[0]))
	}
	out := &infernov1.HealthReport{State: healthState(r.State)}
	for _, c := range r.Components {
		out.Components = append(out.Components, &infernov1.ComponentHealth{
			Name: c.Component, State: healthState(c.State), Reason: c.Reason, Since: timestamppb.New(c.Since), Critical: c.Critical,
		})
	}
	return out, nil
}

func healthState(s health.State) infernov1.HealthState {
	switch s {
	case health.Serving:
		return infernov1.HealthState_HEALTH_STATE_SERVING
	case health.Degraded:
		return infernov1.HealthState_HEALTH_STATE_DEGRADED
	case health.NotServing:
		return infernov1.HealthState_HEALTH_STATE_NOT_SERVING
	case health.Draining:
		return infernov1.HealthState_HEALTH_STATE_DRAINING
	case health.Starting, health.Unknown: // nothing has been heard of the parts yet
		return infernov1.HealthState_HEALTH_STATE_STARTING
	}
	panic(fmt.Sprintf("server: health state %v has no counterpart in the API", s))
}

// standardHealth is grpc.health.v1, for orchestrators. Its services are "" (the whole), those of this server, which live and die with the
// whole, each component by its name ("model/NAME"), and liveness. The library's own server says SERVING from the start and leaves watches
// open when it stops; this one does neither.
type standardHealth struct {
	healthgrpc.UnimplementedHealthServer
	*Server
}

// liveness is the name by which an orchestrator asks whether to restart the process, as "" is for whether to send requests.
const liveness = "liveness"

// standardNames are the names that grpc.health.v1 always knows.
var standardNames = []string{
	"",
	liveness,
	infernov1.HealthService_ServiceDesc.ServiceName,
	infernov1.InferenceService_ServiceDesc.ServiceName,
	infernov1.RegistryService_ServiceDesc.ServiceName,
}

// maxListed bounds List, as the protocol does.
const maxListed = 100

// Check tells the state now, or NOT_FOUND.
func (s standardHealth) Check(_ context.Context, req *healthgrpc.HealthCheckRequest) (*healthgrpc.HealthCheckResponse, error) {
	now := standardStatus(s.Health(), req.GetService())
	if now == healthgrpc.HealthCheckResponse_SERVICE_UNKNOWN {
		return nil, status.Errorf(codes.NotFound, "service %s is unknown", quote(req.GetService()))
	}
	return &healthgrpc.HealthCheckResponse{Status: now}, nil
}

// List tells the state of every service.
func (s standardHealth) List(context.Context, *healthgrpc.HealthListRequest) (*healthgrpc.HealthListResponse, error) {
	report := s.Health()
	names := slices.Clone(standardNames)
	for _, c := range report.Components {
		names = append(names, c.Component)
	}
	if len(names) > maxListed {
		return nil, status.Errorf(codes.ResourceExhausted, "%d services, and a list has at most %d: ask for each by its name", len(names), maxListed)
	}
	out := &healthgrpc.HealthListResponse{Statuses: map[string]*healthgrpc.HealthCheckResponse{}}
	for _, name := range names {
		out.Statuses[name] = &healthgrpc.HealthCheckResponse{Status: standardStatus(report, name)}
	}
	return out, nil
}

// Watch tells the state now and when it changes. As the protocol wants, an unknown service is a state and no error: it may come yet.
func (s standardHealth) Watch(req *healthgrpc.HealthCheckRequest, stream healthgrpc.Health_WatchServer) error {
	last := healthgrpc.HealthCheckResponse_ServingStatus(-1)
	return s.watchHealth(stream.Context(), func(r health.Report) error {
		now := standardStatus(r, req.GetService())
		if now == last {
			return nil
		}
		last = now
		return stream.Send(&healthgrpc.HealthCheckResponse{Status: now})
	})
}

// standardStatus is what a report says of a service.
func standardStatus(r health.Report, service string) healthgrpc.HealthCheckResponse_ServingStatus {
	serves := r.State.Serves()
	switch {
	case service == liveness:
		serves = r.Alive(time.Now())
	case slices.Contains(standardNames, service):
	default:
		one, unknown := r.Select([]string{service})
		if len(unknown) > 0 {
			return healthgrpc.HealthCheckResponse_SERVICE_UNKNOWN
		}
		serves = one.Components[0].State.Serves() && r.State != health.Draining
	}
	if serves {
		return healthgrpc.HealthCheckResponse_SERVING
	}
	return healthgrpc.HealthCheckResponse_NOT_SERVING
}
