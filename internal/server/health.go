package server

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
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
	report, err := chosen(s.report(), req.GetComponents())
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
	return s.watchHealth(stream.Context(), func(r health.Report) error {
		report, err := chosen(r, req.GetComponents())
		if err != nil {
			return err
		}
		return stream.Send(&infernov1.WatchResponse{Report: report})
	})
}

// watchHealth calls send with each report. A watch left open would keep the server from stopping, so that it ends with the drain, after
// a last report that says so.
func (s *Server) watchHealth(ctx context.Context, send func(health.Report) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reports := s.health.Watch(ctx)
	for {
		select {
		case <-s.drained:
			if err := send(s.report()); err != nil {
				return err
			}
			return errStopping
		case r, open := <-reports:
			if !open {
				return context.Cause(ctx)
			}
			if err := send(s.asDraining(r)); err != nil {
				return err
			}
		}
	}
}

func (s *Server) report() health.Report { return s.asDraining(s.health.Report()) }

// asDraining is the checker's report, but that a server that drains serves no more, whatever its parts could do.
func (s *Server) asDraining(r health.Report) health.Report {
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

// standardHealth is grpc.health.v1, for orchestrators. Every service here lives and dies with the same server, so that all have one state;
// a model has its own, under the name of its component: "model/NAME". The library's own server says SERVING from the start and leaves watches open when it stops; this one does neither.
type standardHealth struct {
	healthgrpc.UnimplementedHealthServer
	*Server
}

// modelComponent is what the component of each model is named by, before the model's name.
const modelComponent = "model/"

// standardNames are the names that grpc.health.v1 always knows; "" is the whole server.
var standardNames = []string{
	"",
	infernov1.HealthService_ServiceDesc.ServiceName,
	infernov1.InferenceService_ServiceDesc.ServiceName,
	infernov1.RegistryService_ServiceDesc.ServiceName,
}

// Check tells the state now, or NOT_FOUND.
func (s standardHealth) Check(_ context.Context, req *healthgrpc.HealthCheckRequest) (*healthgrpc.HealthCheckResponse, error) {
	now := standardStatus(s.report(), req.GetService())
	if now == healthgrpc.HealthCheckResponse_SERVICE_UNKNOWN {
		return nil, status.Errorf(codes.NotFound, "service %s is unknown", quote(req.GetService()))
	}
	return &healthgrpc.HealthCheckResponse{Status: now}, nil
}

// List tells the state of every service and model.
func (s standardHealth) List(context.Context, *healthgrpc.HealthListRequest) (*healthgrpc.HealthListResponse, error) {
	report := s.report()
	out := &healthgrpc.HealthListResponse{Statuses: map[string]*healthgrpc.HealthCheckResponse{}}
	for _, name := range standardNames {
		out.Statuses[name] = &healthgrpc.HealthCheckResponse{Status: standardStatus(report, name)}
	}
	for _, c := range report.Components {
		if strings.HasPrefix(c.Component, modelComponent) {
			out.Statuses[c.Component] = &healthgrpc.HealthCheckResponse{Status: standardStatus(report, c.Component)}
		}
	}
	return out, nil
}

// Watch tells the state now and when it changes. As the protocol wants, an unknown service is a state and no error.
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

// standardStatus is the state of a service, or of a model, in a report. A server that drains has no model that serves.
func standardStatus(r health.Report, service string) healthgrpc.HealthCheckResponse_ServingStatus {
	state := r.State
	if !slices.Contains(standardNames, service) {
		chosen, missing := r.Select([]string{service})
		if len(missing) > 0 || !strings.HasPrefix(service, modelComponent) {
			return healthgrpc.HealthCheckResponse_SERVICE_UNKNOWN
		}
		if state != health.Draining {
			state = chosen.Components[0].State
		}
	}
	if state.Serves() {
		return healthgrpc.HealthCheckResponse_SERVING
	}
	return healthgrpc.HealthCheckResponse_NOT_SERVING
}
