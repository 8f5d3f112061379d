package server

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// Limits of sampling, stopping and output.
const (
	maxRepetition    = 10
	maxPenalty       = 10
	maxBias          = 100
	maxBiases        = 1024
	maxTokenList     = 1024 // allowed, and banned, token ids
	maxBannedStrings = 128
	maxBannedBytes   = 256
	maxStopStrings   = 16
	maxStopBytes     = 1024
)

// sampling holds the parameters of which requests and a model's defaults have the same limits; nil means unset.
type sampling struct {
	temperature          *float32
	topK                 *uint32
	topP, minP, typicalP *float32
	repetition           *float32
	presence, frequency  *float32
	allowed, banned      []uint32
	bias                 map[uint32]float32
	bannedStrings        []string
	n                    *uint32
}

func samplingFields(s *infernov1.SamplingParameters) sampling {
	return sampling{
		temperature: s.Temperature, topK: s.TopK, topP: s.TopP, minP: s.MinP, typicalP: s.TypicalP, repetition: s.RepetitionPenalty,
		presence: s.PresencePenalty, frequency: s.FrequencyPenalty, allowed: s.GetAllowedTokenIds(), banned: s.GetBannedTokenIds(),
		bias: s.GetLogitBias(), bannedStrings: s.GetBannedStrings(), n: s.N,
	}
}

// sampling is written so that a NaN fails every comparison.
func (f *faults) sampling(parent string, s sampling) {
	if v := s.temperature; v != nil && !(*v == 0 || *v >= minTemperature && *v <= maxTemperature) {
		f.add(parent+"temperature", "is %v, want 0, or %v to %d", *v, minTemperature, maxTemperature)
	}
	if v := s.topK; v != nil && *v > math.MaxInt32 {
		f.add(parent+"top_k", "is %d, want 0 to %d", *v, math.MaxInt32)
	}
	f.share(parent+"top_p", s.topP)
	if v := s.minP; v != nil && !(*v >= 0 && *v <= 1) {
		f.add(parent+"min_p", "is %v, want 0 to 1", *v)
	}
	f.share(parent+"typical_p", s.typicalP)
	if v := s.repetition; v != nil && !(*v > 0 && *v <= maxRepetition) {
		f.add(parent+"repetition_penalty", "is %v, want above 0, up to %d", *v, maxRepetition)
	}
	f.magnitude(parent+"presence_penalty", s.presence, maxPenalty)
	f.magnitude(parent+"frequency_penalty", s.frequency, maxPenalty)
	if v := s.n; v != nil && !(*v >= 1 && *v <= engine.MaxContinuations) {
		f.add(parent+"n", "is %d, want 1 to %d", *v, engine.MaxContinuations)
	}
	f.tokenChoice(parent, s)
}

// tokenChoice checks what a request says of single tokens and texts.
func (f *faults) tokenChoice(parent string, s sampling) {
	if n := len(s.bias); n > maxBiases {
		f.add(parent+"logit_bias", "has %d entries, want at most %d", n, maxBiases)
	}
	for _, id := range slices.Sorted(maps.Keys(s.bias)) {
		v := s.bias[id]
		before := len(f.found)
		if f.magnitude(fmt.Sprintf("%slogit_bias[%d]", parent, id), &v, maxBias); len(f.found) > before {
			break // one stands for all
		}
	}
	f.count(parent+"allowed_token_ids", len(s.allowed), maxTokenList, "ids")
	f.count(parent+"banned_token_ids", len(s.banned), maxTokenList, "ids")
	f.texts(parent+"banned_strings", s.bannedStrings, maxBannedStrings, maxBannedBytes)
}

func (f *faults) share(field string, v *float32) {
	if v != nil && !(*v > 0 && *v <= 1) {
		f.add(field, "is %v, want above 0, up to 1", *v)
	}
}

func (f *faults) magnitude(field string, v *float32, most float32) {
	if v != nil && !(*v >= -most && *v <= most) {
		f.add(field, "is %v, want %v to %v", *v, -most, most)
	}
}

func (f *faults) count(field string, n, most int, of string) {
	if n > most {
		f.add(field, "has %d %s, want at most %d", n, of, most)
	}
}

// texts checks a list of texts; the API's texts are valid UTF-8.
func (f *faults) texts(field string, texts []string, most, mostBytes int) {
	f.count(field, len(texts), most, "texts")
	for i, s := range texts {
		if len(s) < 1 || len(s) > mostBytes {
			f.add(fmt.Sprintf("%s[%d]", field, i), "has %d bytes, want 1 to %d", len(s), mostBytes)
			return
		}
	}
}

func (f *faults) stopping(s *infernov1.StoppingParameters) {
	if s.MaxTokens != nil && s.GetMaxTokens() == 0 {
		f.add("stopping.max_tokens", "is 0, want at least 1")
	}
	if s.MaxTokens != nil && s.GetMinTokens() > s.GetMaxTokens() {
		f.add("stopping.min_tokens", "is %d, want at most max_tokens, which is %d", s.GetMinTokens(), s.GetMaxTokens())
	}
	f.count("stopping.stop_token_ids", len(s.GetStopTokenIds()), maxStopTokens, "ids")
	f.texts("stopping.stop_strings", s.GetStopStrings(), maxStopStrings, maxStopBytes)
	f.duration("stopping.time_limit", s.GetTimeLimit())
	l := s.GetLoopDetection()
	if v := l.GetMaxPeriod(); l != nil && l.MaxPeriod != nil && (v < 1 || v > engine.MaxLoopPeriod) {
		f.add("stopping.loop_detection.max_period", "is %d, want 1 to %d", v, engine.MaxLoopPeriod)
	}
	if v := l.GetMinRepeats(); l != nil && l.MinRepeats != nil && v < engine.MinLoopRepeats {
		f.add("stopping.loop_detection.min_repeats", "is %d, want at least %d", v, engine.MinLoopRepeats)
	}
}

func (f *faults) output(o *infernov1.OutputOptions) {
	if o.FlushTokens != nil && o.GetFlushTokens() == 0 {
		f.add("output.flush_tokens", "is 0, want at least 1")
	}
	f.duration("output.flush_interval", o.GetFlushInterval())
	f.logprobs(o)
}

// duration checks one that is set: it is valid, above 0, and less than what time.Duration holds.
func (f *faults) duration(field string, d *durationpb.Duration) {
	if d == nil {
		return
	}
	const most = int64(math.MaxInt64 / time.Second)
	switch {
	case d.CheckValid() != nil || d.GetSeconds() > most:
		f.add(field, "is %ds and %dns, want above 0, up to %ds", d.GetSeconds(), d.GetNanos(), most)
	case d.AsDuration() <= 0:
		f.add(field, "is %v, want above 0, up to %ds", d.AsDuration(), most)
	}
}

// ofModel checks what depends on the model: its vocabulary, and whether it has a tokenizer.
func (f *faults) ofModel(req *infernov1.GenerateRequest, model *Model) {
	vocabulary, s := model.Info.VocabularySize, req.GetSampling()
	f.ids("stopping.stop_token_ids", req.GetStopping().GetStopTokenIds(), vocabulary)
	f.logprobIDs("output.logprob_token_ids", req.GetOutput().GetLogprobTokenIds(), model)
	f.ids("sampling.allowed_token_ids", s.GetAllowedTokenIds(), vocabulary)
	f.ids("sampling.banned_token_ids", s.GetBannedTokenIds(), vocabulary)
	if biased := slices.Sorted(maps.Keys(s.GetLogitBias())); len(biased) > 0 && uint64(biased[len(biased)-1]) >= uint64(vocabulary) {
		f.add("sampling.logit_bias", "has id %d, want 0 to %d", biased[len(biased)-1], vocabulary-1)
	}
	if model.Tokenizer != nil {
		return
	}
	for _, needs := range []struct {
		field, is, want string
		set             bool
	}{
		{"output.text", "is true", "false, or unset", req.GetOutput().GetText()},
		{"stopping.stop_strings", "is set", "none", len(req.GetStopping().GetStopStrings()) > 0},
		{"sampling.banned_strings", "is set", "none", len(s.GetBannedStrings()) > 0},
		{"constraint", "is set", "none", req.GetConstraint() != nil},
	} {
		if needs.set {
			f.add(needs.field, "%s, but model %s has no tokenizer: want %s", needs.is, quote(model.Info.Name), needs.want)
		}
	}
}
