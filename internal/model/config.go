package model

import (
	"errors"

	"github.com/inferno-serve/inferno/internal/device"
)

// ErrUnsupported means that a checkpoint is of an architecture that is not computed here. The wrapping error names it.
var ErrUnsupported = errors.New("unsupported architecture")

// Config is a model's shape and constants, from config.json or from the keys of a GGUF file. All of it was checked: dimensions lie
// within the limits below, h is a multiple of g, k is even.
type Config struct {
	Architecture string // as config.json's model_type and GGUF's general.architecture spell it: "llama"
	Dim          int    // d
	Layers       int
	Heads        int // h
	KVHeads      int // g
	HeadDim      int // k; h·k need not be d
	FFNDim       int // f
	Vocab        int // v
	Epsilon      float32
	Rope         Rope
	Context      int  // tokens of one sequence
	Tied         bool // the head is the embedding

	QKVBias    bool // q_proj, k_proj and v_proj have biases
	OutputBias bool // o_proj has
	MLPBias    bool // gate_proj, up_proj and down_proj have

	BOS   int32        // −1: none
	EOS   []int32      // each ends a sequence; may be empty
	DType device.DType // of the weights as declared; 0 where the file does not say
}

// Limits on what a config may claim: a few times what the largest models have, and far from overflow.
const (
	maxDim     = 1 << 20 // d, f and h·k
	maxLayers  = 1024
	maxHeads   = 4096
	maxHeadDim = 1024
	maxVocab   = 1 << 24
	maxContext = 1 << 24
)

// check reports faults that no single key has.
func (c *Config) check(f *faults) {
	if c.KVHeads > 0 && c.Heads%c.KVHeads != 0 {
		f.addf("%d heads, want a multiple of the %d KV heads", c.Heads, c.KVHeads)
	}
	if c.HeadDim%2 != 0 {
		f.addf("head dimension %d, want an even number", c.HeadDim)
	}
	if c.Heads*c.HeadDim > maxDim {
		f.addf("%d heads of %d are %d columns, want at most %d", c.Heads, c.HeadDim, c.Heads*c.HeadDim, maxDim)
	}
	for _, id := range c.EOS {
		if int(id) >= c.Vocab && c.Vocab > 0 {
			f.addf("end token %d, want less than the vocabulary's %d", id, c.Vocab)
		}
	}
	if int(c.BOS) >= c.Vocab && c.Vocab > 0 {
		f.addf("begin token %d, want less than the vocabulary's %d", c.BOS, c.Vocab)
	}
	c.Rope.check(f)
}

// GenerationDefaults is how a checkpoint's makers want tokens chosen, from generation_config.json or a GGUF file's general.sampling keys; nil where
// they do not say.
type GenerationDefaults struct {
	DoSample          *bool // false: greedy, whatever the rest says
	Temperature       *float64
	TopK              *int
	TopP              *float64
	MinP              *float64
	TypicalP          *float64
	RepetitionPenalty *float64
	PenaltyWindow     *int    // tokens that RepetitionPenalty looks at; 0: all
	EOS               []int32 // replaces the config's; nil where absent
}

// RopeKind is how rotary frequencies are stretched to a longer context.
type RopeKind int

const (
	RopeNone    RopeKind = iota
	RopeLinear           // all frequencies divided by Factor
	RopeLlama3           // low frequencies divided by Factor, with a smooth passage
	RopeYarn             // likewise, by rotations within the original context, and attention is scaled
	RopeDivided          // each divided by a factor that the checkpoint holds (GGUF's form of llama3)
)

var ropeNames = [...]string{RopeNone: "none", RopeLinear: "linear", RopeLlama3: "llama3", RopeYarn: "yarn", RopeDivided: "divided"}

// String is the name that configs use.
func (k RopeKind) String() string { return ropeNames[k] }

// Rope is the parameters of rotary position embeddings; Frequencies computes with them.
type Rope struct {
	Kind            RopeKind
	Theta           float64   // base of the frequencies
	Factor          float64   // linear, llama3, yarn
	OriginalContext int       // llama3, yarn: tokens that the model was trained on before it was stretched
	LowFreqFactor   float64   // llama3
	HighFreqFactor  float64   // llama3
	BetaFast        float64   // yarn: rotations above which a frequency stays
	BetaSlow        float64   // yarn: rotations below which it is divided by Factor
	AttentionFactor float64   // yarn: what cosines and sines are multiplied by
	Truncate        bool      // yarn: the passage begins and ends at whole dimensions
	Divisors        []float32 // divided: [k/2]
}

func (r *Rope) check(f *faults) {
	if r.Kind == RopeLlama3 && !(r.HighFreqFactor > r.LowFreqFactor) {
		f.addf("rope: high_freq_factor %g, want more than low_freq_factor %g", r.HighFreqFactor, r.LowFreqFactor)
	}
	if r.Kind == RopeYarn && !(r.BetaFast > r.BetaSlow) {
		f.addf("rope: beta_fast %g, want more than beta_slow %g", r.BetaFast, r.BetaSlow)
	}
	for i, d := range r.Divisors {
		if !(d >= 1e-6 && d <= 1e6) {
			f.addf("rope: divisor %d is %g, want it from 1e-6 to 1e6", i, d)
			return
		}
	}
}
