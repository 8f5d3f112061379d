package server

import (
	"maps"
	"math/rand/v2"
	"slices"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// Defaults of loop detection, where it is asked for.
const (
	defaultMaxPeriod  = 64
	defaultMinRepeats = 8
)

// samplingOf merges the request's parameters, the model's defaults and those of the API, in this order of precedence.
func samplingOf(p *infernov1.SamplingParameters, d GenerationDefaults) engine.Sampling {
	if p == nil {
		p = &infernov1.SamplingParameters{}
	}
	s := engine.Sampling{
		Temperature:       orElse(p.Temperature, orElse(d.Temperature, 1)),
		TopK:              orElse(d.TopK, 0),
		TopP:              orElse(p.TopP, orElse(d.TopP, 1)),
		MinP:              orElse(p.MinP, orElse(d.MinP, 0)),
		TypicalP:          orElse(p.TypicalP, orElse(d.TypicalP, 1)),
		RepetitionPenalty: orElse(p.RepetitionPenalty, orElse(d.RepetitionPenalty, 1)),
		PresencePenalty:   p.GetPresencePenalty(),
		FrequencyPenalty:  p.GetFrequencyPenalty(),
		PenaltyWindow:     orElse(d.PenaltyWindow, 0),
		Allowed:           toInt32(p.GetAllowedTokenIds()),
		Banned:            toInt32(p.GetBannedTokenIds()),
	}
	if p.TopK != nil {
		s.TopK = int(*p.TopK)
	}
	if p.PenaltyWindow != nil {
		s.PenaltyWindow = int(min(*p.PenaltyWindow, 1<<31-1))
	}
	if s.Temperature == 0 {
		s.Temperature = 0 // −0 becomes 0
	}
	for _, id := range slices.Sorted(maps.Keys(p.GetLogitBias())) {
		s.LogitBias = append(s.LogitBias, engine.Bias{ID: int32(id), Value: p.GetLogitBias()[id]})
	}
	if p.Seed != nil {
		s.Seed = *p.Seed
	} else {
		s.Seed = rand.Uint64()
	}
	return s
}

func continuationsOf(p *infernov1.SamplingParameters) int {
	if p == nil || p.N == nil {
		return 1
	}
	return int(*p.N)
}

func stoppingOf(p *infernov1.StoppingParameters, endTokens []int32) engine.Stopping {
	s := engine.Stopping{
		MaxTokens:  int(p.GetMaxTokens()), // 0, which validation lets pass only where it is unset, is the engine's word for no bound
		MinTokens:  int(p.GetMinTokens()),
		EndTokens:  endTokens,
		StopTokens: toInt32(p.GetStopTokenIds()),
		IgnoreEOS:  p.GetIgnoreEos(),
	}
	if l := p.GetLoopDetection(); l != nil {
		s.Loop = engine.LoopDetection{
			MaxPeriod: int(orElse(l.MaxPeriod, defaultMaxPeriod)), MinRepeats: int(orElse(l.MinRepeats, defaultMinRepeats)),
		}
	}
	return s
}

// effectiveOf is what the client would have to send to ask for the same again.
func effectiveOf(req *infernov1.GenerateRequest, r *engine.Request, context int) *infernov1.EffectiveParameters {
	return &infernov1.EffectiveParameters{
		Sampling:    effectiveSampling(req.GetSampling(), r),
		Stopping:    effectiveStopping(req.GetStopping(), r, context),
		EndTokenIds: toUint32(r.Stop.EndTokens),
		Constraint:  req.GetConstraint(),
	}
}

func effectiveSampling(asked *infernov1.SamplingParameters, r *engine.Request) *infernov1.SamplingParameters {
	s := &r.Sampling
	return &infernov1.SamplingParameters{
		Temperature:       new(s.Temperature),
		TopK:              new(uint32(s.TopK)),
		TopP:              new(s.TopP),
		MinP:              new(s.MinP),
		TypicalP:          new(s.TypicalP),
		RepetitionPenalty: new(s.RepetitionPenalty),
		PresencePenalty:   new(s.PresencePenalty),
		FrequencyPenalty:  new(s.FrequencyPenalty),
		PenaltyWindow:     new(uint32(s.PenaltyWindow)),
		LogitBias:         asked.GetLogitBias(),
		AllowedTokenIds:   toUint32(s.Allowed),
		BannedTokenIds:    toUint32(s.Banned),
		BannedStrings:     asked.GetBannedStrings(),
		Seed:              new(s.Seed),
		N:                 new(uint32(r.N)),
	}
}

func effectiveStopping(asked *infernov1.StoppingParameters, r *engine.Request, context int) *infernov1.StoppingParameters {
	maxTokens := r.Stop.MaxTokens
	if maxTokens == 0 {
		maxTokens = max(context-len(r.Prompt), 0) // a dry run's prompt may be too long
	}
	s := &infernov1.StoppingParameters{
		MaxTokens:    new(uint32(maxTokens)),
		MinTokens:    new(uint32(r.Stop.MinTokens)),
		StopStrings:  asked.GetStopStrings(),
		StopTokenIds: toUint32(r.Stop.StopTokens),
		IncludeStop:  new(asked.GetIncludeStop()),
		IgnoreEos:    new(r.Stop.IgnoreEOS),
	}
	if asked.GetTimeLimit() != nil {
		s.TimeLimit = durationpb.New(asked.GetTimeLimit().AsDuration())
	}
	if l := r.Stop.Loop; l.MaxPeriod > 0 {
		s.LoopDetection = &infernov1.LoopDetection{MaxPeriod: new(uint32(l.MaxPeriod)), MinRepeats: new(uint32(l.MinRepeats))}
	}
	return s
}
