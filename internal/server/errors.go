package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/inferno-serve/inferno/internal/engine"
)

// errorDomain is what google.rpc.ErrorInfo names as the origin of a reason.
const errorDomain = "inferno"

// Ways in which this package ends a call.
var (
	errStopping   = errors.New("the server is stopping")
	errSlowReader = errors.New("the client stopped reading")
)

// statusError is what a client sees of an error, and for the log the error itself. It keeps the cause's text from the client.
type statusError struct {
	status *status.Status
	cause  error
}

func (e *statusError) Error() string              { return e.cause.Error() }
func (e *statusError) Unwrap() error              { return e.cause }
func (e *statusError) GRPCStatus() *status.Status { return e.status }

// toStatus is the one place where errors become gRPC statuses. What is a status already stays as it is; what nobody foresaw becomes
// INTERNAL, without its text.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	var already interface{ GRPCStatus() *status.Status }
	if errors.As(err, &already) {
		return err
	}
	return &statusError{status: statusOf(err), cause: err}
}

// Delays that RetryInfo names. Elsewhere in the fleet a call may succeed at once; here, after a restart.
const (
	retryElsewhere = 100 * time.Millisecond
	retryRestarted = time.Second
)

func statusOf(err error) *status.Status {
	var invalid *invalidError
	var limit *engine.LimitError
	var full *engine.QueueFullError
	switch {
	case errors.As(err, &invalid):
		return newStatus(codes.InvalidArgument, "INVALID_FIELD", invalid.Error(), invalid.badRequest())
	case errors.As(err, &limit):
		invalid = &invalidError{violations: []violation{{apiField(limit.Field), fmt.Sprintf("is %v, want %s", limit.Value, limit.Limit)}}}
		return newStatus(codes.InvalidArgument, "INVALID_FIELD", invalid.Error(), invalid.badRequest())
	case errors.Is(err, ErrUnknownModel):
		return newStatus(codes.NotFound, "UNKNOWN_MODEL", err.Error())
	case errors.Is(err, ErrModelNotReady):
		return newStatus(codes.Unavailable, "MODEL_NOT_READY", err.Error(), retryIn(retryRestarted))
	case errors.Is(err, engine.ErrDuplicateID):
		return newStatus(codes.AlreadyExists, "DUPLICATE_REQUEST_ID", "request_id: a request with this id is live")
	case errors.As(err, &full):
		return newStatus(codes.ResourceExhausted, "QUEUE_FULL", full.Error(), retryIn(full.RetryAfter))
	case errors.Is(err, engine.ErrQueueFull):
		return newStatus(codes.ResourceExhausted, "QUEUE_FULL", "queue full", retryIn(retryRestarted))
	case errors.Is(err, engine.ErrDraining), errors.Is(err, errStopping):
		return newStatus(codes.Unavailable, "DRAINING", "the server is stopping and takes no new work", retryIn(retryElsewhere))
	case errors.Is(err, engine.ErrDeviceLost):
		return newStatus(codes.Unavailable, "DEVICE_LOST", "the model lost its device; this instance has to be replaced", retryIn(retryRestarted))
	case errors.Is(err, engine.ErrNotFinite):
		return newStatus(codes.DataLoss, "LOGITS_NOT_FINITE", "the model computed a value that is no number for this request")
	case errors.Is(err, engine.ErrAborted):
		return newStatus(codes.Canceled, "ABORTED", "the request was aborted")
	case errors.Is(err, errSlowReader):
		return newStatus(codes.Canceled, "SLOW_READER", err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return newStatus(codes.DeadlineExceeded, "DEADLINE_EXCEEDED", "the call's deadline has passed")
	case errors.Is(err, context.Canceled):
		return newStatus(codes.Canceled, "CANCELLED", "the client cancelled the call")
	}
	return newStatus(codes.Internal, "INTERNAL", "internal error")
}

func newStatus(code codes.Code, reason, text string, details ...protoadapt.MessageV1) *status.Status {
	info := &errdetails.ErrorInfo{Reason: reason, Domain: errorDomain}
	s, err := status.New(code, text).WithDetails(append([]protoadapt.MessageV1{info}, details...)...)
	if err != nil {
		panic(fmt.Sprintf("server: details of a %v status: %v", code, err)) // only for code OK, or a message that cannot be encoded
	}
	return s
}

func retryIn(delay time.Duration) *errdetails.RetryInfo {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(delay)}
}

// apiField is the path in GenerateRequest of a field that the engine names.
func apiField(field string) string {
	switch field {
	case "max_tokens", "min_tokens", "stop_token_ids":
		return "stopping." + field
	case "temperature", "top_k", "top_p", "min_p":
		return "sampling." + field
	}
	return field
}
