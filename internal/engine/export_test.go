package engine

// WorkAhead makes the engine launch each step while the one before is under way, and compute rows of padding, on any device. Before Warmup.
func (e *Engine) WorkAhead() {
	e.runner.depth, e.runner.padded = maxUnderWay, true
}

// Graphs is how many steps were captured.
func (e *Engine) Graphs() int { return len(e.runner.graphs) }
