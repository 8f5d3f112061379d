package main

import (
	"testing"
	"time"
)

func TestMixedTellsStepsWithPromptsFromOthers(t *testing.T) {
	ms, us := time.Millisecond, time.Microsecond
	var row mixedRow
	row.addSteps([]stepEnd{
		{prefill: 100, took: 30 * ms, idle: time.Second}, // nothing to do before
		{decode: 4, took: 5 * ms},
		{decode: 4, prefill: 10, took: 8 * ms, idle: 7 * us},
		{decode: 5, prefill: 30, took: 9 * ms},
		{decode: 6, took: 6 * ms, idle: 9 * us},
		{decode: 6, took: 7 * ms, idle: 8 * us},
	})
	want := mixedRow{Steps: 6, DecodeStep: 6, MixedSteps: 2, MixedStep: 8, MixedPrompt: 20, Waited: 3, Idle: 8}
	if row != want {
		t.Errorf("got %+v, want %+v", row, want)
	}
}
