package server

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// Limits of a request that do not depend on the model; the comments of the proto files promise them.
const (
	maxRequestIDLen  = 128
	maxModelNameLen  = 128
	maxPathLen       = 4096 // bytes of a path below a model root: no operating system opens a longer one
	maxTemperature   = 100
	minTemperature   = 1e-6 // of those above 0: logits divided by less may leave float32
	maxStopTokens    = 16
	maxAbortRequests = 1024
	maxComponents    = 128
	maxPieces        = 1 << 18
)

// supported are the fields of requests whose features this server has. Any other field that is set is refused by name.
var supported = map[protoreflect.FullName]bool{
	"inferno.v1.GenerateRequest.request_id":            true,
	"inferno.v1.GenerateRequest.model":                 true,
	"inferno.v1.GenerateRequest.text":                  true,
	"inferno.v1.GenerateRequest.token_ids":             true,
	"inferno.v1.GenerateRequest.chat":                  true,
	"inferno.v1.GenerateRequest.prompt_options":        true,
	"inferno.v1.GenerateRequest.sampling":              true,
	"inferno.v1.GenerateRequest.stopping":              true,
	"inferno.v1.GenerateRequest.output":                true,
	"inferno.v1.GenerateRequest.cache":                 true,
	"inferno.v1.GenerateRequest.priority":              true,
	"inferno.v1.GenerateRequest.speculation":           true,
	"inferno.v1.GenerateRequest.constraint":            true,
	"inferno.v1.Constraint.json_schema":                true,
	"inferno.v1.Constraint.json_object":                true,
	"inferno.v1.Constraint.regex":                      true,
	"inferno.v1.Constraint.choice":                     true,
	"inferno.v1.Constraint.grammar":                    true,
	"inferno.v1.Choices.texts":                         true,
	"inferno.v1.SpeculationOptions.ngram":              true,
	"inferno.v1.NgramSpeculation.max_draft_tokens":     true,
	"inferno.v1.NgramSpeculation.min_match":            true,
	"inferno.v1.CacheOptions.salt":                     true,
	"inferno.v1.CacheOptions.bypass":                   true,
	"inferno.v1.TokenIds.ids":                          true,
	"inferno.v1.ChatMessages.messages":                 true,
	"inferno.v1.ChatMessages.add_generation_prompt":    true,
	"inferno.v1.ChatMessages.continue_final_message":   true,
	"inferno.v1.ChatMessages.tools":                    true,
	"inferno.v1.ChatMessages.parse_special_in_content": true,
	"inferno.v1.ChatMessages.tools_json":               true,
	"inferno.v1.ChatMessage.role":                      true,
	"inferno.v1.ChatMessage.content":                   true,
	"inferno.v1.ChatMessage.extra":                     true,
	"inferno.v1.ChatMessage.extra_json":                true,
	"inferno.v1.PromptOptions.add_special_tokens":      true,
	"inferno.v1.PromptOptions.parse_special":           true,
	"inferno.v1.PromptOptions.truncate_to":             true,
	"inferno.v1.PromptOptions.truncation_side":         true,
	"inferno.v1.SamplingParameters.temperature":        true,
	"inferno.v1.SamplingParameters.top_k":              true,
	"inferno.v1.SamplingParameters.top_p":              true,
	"inferno.v1.SamplingParameters.min_p":              true,
	"inferno.v1.SamplingParameters.seed":               true,
	"inferno.v1.StoppingParameters.max_tokens":         true,
	"inferno.v1.StoppingParameters.min_tokens":         true,
	"inferno.v1.StoppingParameters.stop_token_ids":     true,
	"inferno.v1.StoppingParameters.ignore_eos":         true,
	"inferno.v1.OutputOptions.text":                    true,
	"inferno.v1.OutputOptions.token_ids":               true,
	"inferno.v1.OutputOptions.skip_special_tokens":     true,
	"inferno.v1.OutputOptions.logprobs":                true,
	"inferno.v1.OutputOptions.logprob_token_ids":       true,
	"inferno.v1.OutputOptions.prompt_logprobs":         true,
	"inferno.v1.OutputOptions.prompt_logprobs_start":   true,
	"inferno.v1.OutputOptions.echo":                    true,
	"inferno.v1.GenerateRequest.dry_run":               true,
	"inferno.v1.ScoreRequest.request_id":               true,
	"inferno.v1.ScoreRequest.model":                    true,
	"inferno.v1.ScoreRequest.inputs":                   true,
	"inferno.v1.ScoreRequest.prompt_options":           true,
	"inferno.v1.ScoreRequest.tokens":                   true,
	"inferno.v1.ScoreRequest.top_logprobs":             true,
	"inferno.v1.ScoreRequest.logprob_token_ids":        true,
	"inferno.v1.ScoreInput.context_text":               true,
	"inferno.v1.ScoreInput.context_ids":                true,
	"inferno.v1.ScoreInput.text":                       true,
	"inferno.v1.ScoreInput.token_ids":                  true,
	"inferno.v1.EmbedRequest.request_id":               true,
	"inferno.v1.EmbedRequest.model":                    true,
	"inferno.v1.EmbedRequest.inputs":                   true,
	"inferno.v1.EmbedRequest.prompt_options":           true,
	"inferno.v1.EmbedRequest.pooling":                  true,
	"inferno.v1.EmbedRequest.normalize":                true,
	"inferno.v1.EmbedInput.text":                       true,
	"inferno.v1.EmbedInput.token_ids":                  true,
	"inferno.v1.SamplingParameters.typical_p":          true,
	"inferno.v1.SamplingParameters.repetition_penalty": true,
	"inferno.v1.SamplingParameters.presence_penalty":   true,
	"inferno.v1.SamplingParameters.frequency_penalty":  true,
	"inferno.v1.SamplingParameters.penalty_window":     true,
	"inferno.v1.SamplingParameters.logit_bias":         true,
	"inferno.v1.SamplingParameters.allowed_token_ids":  true,
	"inferno.v1.SamplingParameters.banned_token_ids":   true,
	"inferno.v1.SamplingParameters.banned_strings":     true,
	"inferno.v1.SamplingParameters.n":                  true,
	"inferno.v1.StoppingParameters.stop_strings":       true,
	"inferno.v1.StoppingParameters.include_stop":       true,
	"inferno.v1.StoppingParameters.time_limit":         true,
	"inferno.v1.StoppingParameters.loop_detection":     true,
	"inferno.v1.LoopDetection.max_period":              true,
	"inferno.v1.LoopDetection.min_repeats":             true,
	"inferno.v1.OutputOptions.flush_tokens":            true,
	"inferno.v1.OutputOptions.flush_interval":          true,
	"inferno.v1.OutputOptions.prompt_progress":         true,
	"inferno.v1.TokenizeRequest.model":                 true,
	"inferno.v1.TokenizeRequest.text":                  true,
	"inferno.v1.TokenizeRequest.chat":                  true,
	"inferno.v1.TokenizeRequest.prompt_options":        true,
	"inferno.v1.TokenizeRequest.pieces":                true,
	"inferno.v1.AbortRequest.request_ids":              true,
	"inferno.v1.AbortRequest.all":                      true,
	"inferno.v1.DetokenizeRequest.model":               true,
	"inferno.v1.DetokenizeRequest.token_ids":           true,
	"inferno.v1.DetokenizeRequest.skip_special_tokens": true,
	"inferno.v1.CheckRequest.components":               true,
	"inferno.v1.WatchRequest.components":               true,
	"inferno.v1.GetModelRequest.name":                  true,
	"inferno.v1.LoadModelRequest.name":                 true,
	"inferno.v1.LoadModelRequest.path":                 true,
	"inferno.v1.LoadModelRequest.pinned":               true,
	"inferno.v1.UnloadModelRequest.name":               true,
	"inferno.v1.UnloadModelRequest.drain_timeout":      true,
	"inferno.v1.ListInstancesRequest.model":            true,
	"inferno.v1.ListInstancesRequest.with_leases":      true,
	"inferno.v1.WatchInstancesRequest.model":           true,
}

// violation is one fault of a request: "sampling.temperature", "is 101, want 0 to 100".
type violation struct{ field, text string }

// invalidError holds all faults of a request. It becomes INVALID_ARGUMENT.
type invalidError struct{ violations []violation }

func (e *invalidError) Error() string {
	texts := make([]string, len(e.violations))
	for i, v := range e.violations {
		texts[i] = v.field + ": " + v.text
	}
	return strings.Join(texts, "; ")
}

func (e *invalidError) badRequest() *errdetails.BadRequest {
	out := &errdetails.BadRequest{}
	for _, v := range e.violations {
		out.FieldViolations = append(out.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: v.field, Description: v.text})
	}
	return out
}

// faults gathers what is wrong with a request, so that a client learns all of it at once. The zero value has none.
type faults struct{ found []violation }

func (f *faults) add(field, format string, args ...any) {
	f.found = append(f.found, violation{field, fmt.Sprintf(format, args...)})
}

// err is nil, or an *invalidError with the faults by field.
func (f *faults) err() error {
	if len(f.found) == 0 {
		return nil
	}
	slices.SortStableFunc(f.found, func(a, b violation) int { return cmp.Compare(a.field, b.field) })
	return &invalidError{violations: f.found}
}

// unsupported adds every field of m, and of the messages in it, that is set and whose feature this server does not have: those of a newer
// API, which it knows by number only, among them.
func (f *faults) unsupported(parent string, m protoreflect.Message) {
	if number, _, n := protowire.ConsumeTag(m.GetUnknown()); n > 0 {
		f.add(fmt.Sprintf("%s%d", parent, number), "is a field number that this server does not know")
	}
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		name := parent + string(field.Name())
		switch {
		case !supported[field.FullName()]:
			f.add(name, "is not supported by this server yet")
		case field.Message() == nil || field.IsMap() || field.Message().ParentFile().Package() != m.Descriptor().ParentFile().Package():
		case field.IsList():
			for i := range value.List().Len() {
				f.unsupported(fmt.Sprintf("%s[%d].", name, i), value.List().Get(i).Message())
			}
		default:
			f.unsupported(name+".", value.Message())
		}
		return true
	})
}

// onlySupported is the check of a request of which nothing else can be wrong.
func onlySupported(req proto.Message) error {
	var f faults
	f.unsupported("", req.ProtoReflect())
	return f.err()
}

// onlyWhole refuses what an answer in one message cannot do.
func onlyWhole(o *infernov1.OutputOptions) error {
	var f faults
	if o.GetPromptProgress() {
		f.add("output.prompt_progress", "is true, want false, or GenerateStream: Generate answers once")
	}
	return f.err()
}

// checkComponents checks the names that a report is asked for.
func checkComponents(req interface {
	proto.Message
	GetComponents() []string
}) error {
	var f faults
	f.unsupported("", req.ProtoReflect())
	if n := len(req.GetComponents()); n > maxComponents {
		f.add("components", "has %d names, want at most %d", n, maxComponents)
	}
	return f.err()
}

// checkInstances checks the model that instances are asked for; an empty name means all of them.
func checkInstances(req interface {
	proto.Message
	GetModel() string
}) error {
	var f faults
	f.unsupported("", req.ProtoReflect())
	if name := req.GetModel(); name != "" {
		f.modelName("model", name)
	}
	return f.err()
}

// generate checks what can be known of a request without its model.
func (f *faults) generate(req *infernov1.GenerateRequest) {
	f.unsupported("", req.ProtoReflect())
	f.requestID(req.GetRequestId())
	f.modelName("model", req.GetModel())
	f.input(req)
	f.queueing(req)
	f.speculation(req.GetSpeculation().GetNgram())
	f.constraint(req.GetConstraint())
	if req.GetConstraint() != nil && req.GetStopping().GetIncludeStop() {
		f.add("stopping.include_stop", "is true, want false beside a constraint: the text would be another")
	}
	f.promptOptions(req.GetPromptOptions())
	if s := req.GetSampling(); s != nil {
		f.sampling("sampling.", samplingFields(s))
	}
	if s := req.GetStopping(); s != nil {
		f.stopping(s)
	}
	if o := req.GetOutput(); o != nil {
		f.output(o)
	}
}

func (f *faults) requestID(id string) {
	if len(id) > maxRequestIDLen {
		f.add("request_id", "has %d characters, want at most %d", len(id), maxRequestIDLen)
		return
	}
	for _, r := range id {
		if !isIDRune(r) {
			f.add("request_id", "is %s, want only characters of [A-Za-z0-9._:-]", quote(id))
			return
		}
	}
}

func isIDRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("._:-", r)
}

// modelName reports whether the name can be looked up.
func (f *faults) modelName(field, name string) bool {
	switch {
	case name == "":
		f.add(field, "is empty, want the name of a model as ListModels gives it")
	case len(name) > maxModelNameLen:
		f.add(field, "has %d bytes, want at most %d", len(name), maxModelNameLen)
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		f.add(field, "is %s, want a name without control characters", quote(name))
	default:
		return true
	}
	return false
}

// newModelName checks a name for a model that is to be: it appears in logs, metrics and keys of the registry.
func (f *faults) newModelName(field, name string) {
	if name == "" {
		f.add(field, "is empty, want the name that requests will use")
	} else if !f.modelName(field, name) {
		return
	} else if strings.ContainsFunc(name, func(r rune) bool { return !isIDRune(r) && r != '/' }) || strings.Contains(name, "..") {
		f.add(field, "is %s, want only characters of [A-Za-z0-9._:/-], and no two dots in a row", quote(name))
	}
}

// modelPath checks what can be known of a path below the model roots without looking.
func (f *faults) modelPath(field, path string) {
	switch {
	case path == "":
		f.add(field, "is empty, want a path below a model root")
	case len(path) > maxPathLen:
		f.add(field, "has %d bytes, want at most %d", len(path), maxPathLen)
	case strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }):
		f.add(field, "is %s, want a path without control characters", quote(path))
	}
}

func (f *faults) input(req *infernov1.GenerateRequest) {
	switch input := req.GetInput().(type) {
	case nil:
		f.add("input", "none is set, want exactly one of text, token_ids and chat")
	case *infernov1.GenerateRequest_Text:
		if input.Text == "" {
			f.add("text", "is empty, want at least 1 character")
		}
	case *infernov1.GenerateRequest_TokenIds:
		if len(input.TokenIds.GetIds()) == 0 {
			f.add("token_ids.ids", "is empty, want at least 1 token id")
		}
	}
}

// ids checks token ids against the width of the logits. One fault stands for all, since there may be millions.
func (f *faults) ids(field string, ids []uint32, vocabulary int) {
	for i, id := range ids {
		if uint64(id) >= uint64(vocabulary) {
			f.add(fmt.Sprintf("%s[%d]", field, i), "is %d, want 0 to %d", id, vocabulary-1)
			return
		}
	}
}

// textRoom refuses a text whose tokens cannot fit the model's context, judged by its length: before the work of tokenizing it.
func (f *faults) textRoom(field, text string, model *Model) {
	if model.Tokenizer == nil {
		return // another fault
	}
	context := model.Info.MaxContext
	if least := model.Tokenizer.MinTokens(text); least > context-1 {
		f.add(field, "has %d bytes, and so at least %d tokens, want at most %d (the context of %d, less one to generate)",
			len(text), least, context-1, context)
	}
}

// room checks that the prompt, and the output that is asked for, fit the model's context.
func (f *faults) room(field string, prompt int, s *infernov1.StoppingParameters, context int) {
	room := context - prompt
	if room < 1 {
		f.add(field, "has %d tokens, want at most %d (the context of %d, less one to generate)", prompt, context-1, context)
		return
	}
	if uint64(s.GetMaxTokens()) > uint64(room) {
		f.add("stopping.max_tokens", "is %d, want at most %d (the context of %d, less %d of the prompt)",
			s.GetMaxTokens(), room, context, prompt)
	}
	if s.GetMaxTokens() == 0 && uint64(s.GetMinTokens()) > uint64(room) {
		f.add("stopping.min_tokens", "is %d, want at most %d (the context of %d, less %d of the prompt)",
			s.GetMinTokens(), room, context, prompt)
	}
}

// Validate checks a model's own defaults as the parameters of a request are checked.
func (d GenerationDefaults) Validate() error {
	var f faults
	s := sampling{temperature: d.Temperature, topP: d.TopP, minP: d.MinP, typicalP: d.TypicalP, repetition: d.RepetitionPenalty}
	if d.TopK != nil {
		if *d.TopK < 0 {
			f.add("top_k", "is %d, want 0 or more", *d.TopK)
		} else {
			topK := uint32(min(*d.TopK, 1<<32-1))
			s.topK = &topK
		}
	}
	if d.PenaltyWindow != nil && *d.PenaltyWindow < 0 {
		f.add("penalty_window", "is %d, want 0 or more", *d.PenaltyWindow)
	}
	f.sampling("", s)
	if err := f.err(); err != nil {
		return fmt.Errorf("generation defaults: %w", err)
	}
	return nil
}

// quote shows a client's text in an error: short, and without what could forge a line of a log.
func quote(s string) string {
	const most = 64
	if len(s) <= most {
		return fmt.Sprintf("%q", s)
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return fmt.Sprintf("%q and %d bytes more", s[:cut], len(s)-cut)
}
