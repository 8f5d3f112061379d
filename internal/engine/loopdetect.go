package engine

import "fmt"

// LoopDetection ends output whose tail is one sequence of tokens over and over.
type LoopDetection struct {
	MaxPeriod  int // longest sequence looked for, in tokens; 0: off
	MinRepeats int // how often it has to be there
}

// Bounds of LoopDetection.
const (
	MaxLoopPeriod  = 256
	MinLoopRepeats = 3
)

func (d *LoopDetection) validate() error {
	if d.MaxPeriod < 0 || d.MaxPeriod > MaxLoopPeriod {
		return &LimitError{"loop_detection.max_period", d.MaxPeriod, fmt.Sprintf("0 to %d", MaxLoopPeriod), ErrInvalid}
	}
	if d.MaxPeriod > 0 && d.MinRepeats < MinLoopRepeats {
		return &LimitError{"loop_detection.min_repeats", d.MinRepeats, fmt.Sprintf("at least %d", MinLoopRepeats), ErrInvalid}
	}
	return nil
}

// loopDetector follows one output. A comparison for each period that is looked for is what a token costs.
type loopDetector struct {
	minRepeats int
	run        []int32 // [max period] by period − 1: of the last tokens, how many equal the one a period before
}

func newLoopDetector(d LoopDetection) loopDetector {
	return loopDetector{minRepeats: d.MinRepeats, run: make([]int32, d.MaxPeriod)}
}

// accept takes in the last token of the output and says whether its tail is a loop.
func (l *loopDetector) accept(output []int32) bool {
	last := len(output) - 1
	for i := range min(len(l.run), last) {
		period := i + 1
		if output[last] != output[last-period] {
			l.run[i] = 0
			continue
		}
		l.run[i]++
		if int(l.run[i]) >= period*(l.minRepeats-1) {
			return true
		}
	}
	return false
}
