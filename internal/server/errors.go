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

	"github.com/inferno-serve/inferno/internal/auth"
	"github.com/inferno-serve/inferno/internal/discovery"
	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/tokenizer/chat/jinja"
)

// errorDomain is what google.rpc.ErrorInfo names as the origin of a reason.
const errorDomain = "inferno"

// Ways in which this package ends a call.
var (
	errStopping   = errors.New("the server is stopping")
	errPanic      = errors.New("panic in a call")
	errCut        = errors.New("the server stopped before the request had ended")
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
// INTERNAL, without its text. The request's id, where there is one, goes to the client too: it may have been made here.
func toStatus(err error, requestID string) error {
	if err == nil {
		return nil
	}
	var already interface{ GRPCStatus() *status.Status }
	if errors.As(err, &already) {
		return err
	}
	return &statusError{status: failureOf(err).status(requestID), cause: err}
}

// failure is what a client is told of an error.
type failure struct {
	code    codes.Code
	reason  string // for programs
	text    string // for people
	details []protoadapt.MessageV1
}

func (f failure) status(requestID string) *status.Status {
	info := &errdetails.ErrorInfo{Reason: f.reason, Domain: errorDomain}
	if requestID != "" {
		info.Metadata = map[string]string{"request_id": clip(requestID)}
	}
	s, err := status.New(f.code, f.text).WithDetails(append([]protoadapt.MessageV1{info}, f.details...)...)
	if err != nil {
		panic(fmt.Sprintf("server: details of a %v status: %v", f.code, err)) // only for code OK, or a message that cannot be encoded
	}
	return s
}

// Delays that RetryInfo names. Elsewhere in the fleet a call may succeed at once; here, after a restart.
const (
	retryElsewhere = 100 * time.Millisecond
	retryRestarted = time.Second
)

func failureOf(err error) failure {
	var invalid *invalidError
	var limit *engine.LimitError
	var full *engine.QueueFullError
	var template *templateError
	var slow *jinja.LimitError
	var denied *auth.DeniedError
	var quota *auth.LimitError
	switch {
	case errors.Is(err, auth.ErrUnauthenticated):
		return newFailure(codes.Unauthenticated, "UNAUTHENTICATED", auth.ErrUnauthenticated.Error()) // not why: that helps who guesses
	case errors.As(err, &denied):
		return newFailure(codes.PermissionDenied, "ROLE_MISSING", denied.Error())
	case errors.As(err, &quota):
		return newFailure(codes.ResourceExhausted, "CALLER_LIMIT", quota.Error(), retryIn(quota.RetryAfter))
	case errors.As(err, &invalid):
		return newFailure(codes.InvalidArgument, "INVALID_FIELD", invalid.Error(), invalid.badRequest())
	case errors.As(err, &limit):
		invalid = &invalidError{violations: []violation{{apiField(limit.Field), fmt.Sprintf("is %v, want %s", limit.Value, limit.Limit)}}}
		return newFailure(codes.InvalidArgument, "INVALID_FIELD", invalid.Error(), invalid.badRequest())
	case errors.As(err, &template):
		return newFailure(codes.FailedPrecondition, "NO_CHAT_TEMPLATE", oneLine(template.Error()))
	case errors.As(err, &slow):
		return newFailure(codes.ResourceExhausted, "CHAT_TEMPLATE_SLOW", "the model's chat "+slow.Error(), retryIn(retryRestarted))
	case errors.Is(err, ErrUnknownModel):
		return newFailure(codes.NotFound, "UNKNOWN_MODEL", err.Error())
	case errors.Is(err, ErrModelNotReady):
		return newFailure(codes.Unavailable, "MODEL_NOT_READY", err.Error(), retryIn(retryRestarted))
	case errors.Is(err, errForbidden):
		return newFailure(codes.PermissionDenied, "FORBIDDEN", err.Error())
	case errors.Is(err, ErrNoPath):
		return newFailure(codes.NotFound, "UNKNOWN_PATH", "path: "+err.Error())
	case errors.Is(err, ErrModelExists):
		return newFailure(codes.AlreadyExists, "MODEL_EXISTS", err.Error())
	case errors.Is(err, ErrNoRoom):
		return newFailure(codes.ResourceExhausted, "NO_ROOM", err.Error())
	case errors.Is(err, ErrLoadFailed):
		return newFailure(codes.FailedPrecondition, "MODEL_UNUSABLE", err.Error())
	case errors.Is(err, ErrLoadUndone):
		return newFailure(codes.Aborted, "LOAD_UNDONE", err.Error())
	case errors.Is(err, engine.ErrDuplicateID):
		return newFailure(codes.AlreadyExists, "DUPLICATE_REQUEST_ID", "request_id: a request with this id is live")
	case errors.As(err, &full):
		return newFailure(codes.ResourceExhausted, "QUEUE_FULL", full.Error(), retryIn(full.RetryAfter))
	case errors.Is(err, engine.ErrQueueFull):
		return newFailure(codes.ResourceExhausted, "QUEUE_FULL", "queue full", retryIn(retryRestarted))
	case errors.Is(err, engine.ErrDraining), errors.Is(err, errStopping):
		return newFailure(codes.Unavailable, "DRAINING", "the server is stopping and takes no new work", retryIn(retryElsewhere))
	case errors.Is(err, errCut):
		return newFailure(codes.Unavailable, "STOPPED", err.Error(), retryIn(retryElsewhere))
	case errors.Is(err, engine.ErrDeviceLost):
		return newFailure(codes.Unavailable, "DEVICE_LOST", "the model lost its device; this instance has to be replaced", retryIn(retryRestarted))
	case errors.Is(err, discovery.ErrAway):
		text := discovery.ErrAway.Error() + "; requests are served without it"
		return newFailure(codes.Unavailable, "REGISTRY_AWAY", text, retryIn(retryRestarted))
	case errors.Is(err, engine.ErrForm):
		invalid = &invalidError{violations: []violation{{"constraint", err.Error()}}}
		return newFailure(codes.InvalidArgument, "INVALID_FIELD", invalid.Error(), invalid.badRequest())
	case errors.Is(err, engine.ErrNotFinite):
		return newFailure(codes.DataLoss, "LOGITS_NOT_FINITE", "the model computed a value that is no number for this request")
	case errors.Is(err, engine.ErrAborted):
		return newFailure(codes.Canceled, "ABORTED", "the request was aborted")
	case errors.Is(err, errSlowReader):
		return newFailure(codes.Canceled, "SLOW_READER", err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return newFailure(codes.DeadlineExceeded, "DEADLINE_EXCEEDED", "the call's deadline has passed")
	case errors.Is(err, context.Canceled):
		return newFailure(codes.Canceled, "CANCELLED", "the client cancelled the call")
	}
	return newFailure(codes.Internal, "INTERNAL", "internal error")
}

func newFailure(code codes.Code, reason, text string, details ...protoadapt.MessageV1) failure {
	return failure{code: code, reason: reason, text: text, details: details}
}

func retryIn(delay time.Duration) *errdetails.RetryInfo {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(delay)}
}

// apiField is the path in GenerateRequest of a field that the engine names.
func apiField(field string) string {
	switch field {
	case "max_tokens", "min_tokens", "stop_token_ids", "loop_detection.max_period", "loop_detection.min_repeats":
		return "stopping." + field
	case "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
		"penalty_window", "logit_bias", "allowed_token_ids", "banned_token_ids", "n":
		return "sampling." + field
	}
	return field
}
