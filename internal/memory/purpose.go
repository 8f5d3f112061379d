// Package memory decides who may have how much of a device's memory, and knows who has it.
//
// A Pool takes one reservation from the device when a model loads and gives it all back when it is closed; in between, the model and
// the engine take their tensors from it through Allocator, and nothing returns single tensors. A Tracker counts every byte by owner
// and purpose, refuses reservations above its limit, and publishes an Alert when use crosses a threshold.
//
// Both may be used from any goroutine. Nothing here is called during a step.
package memory

import "fmt"

// Purpose is what memory is used for.
type Purpose uint8

const (
	Reserved    Purpose = iota // taken from the device by a pool, not handed out yet
	Weights                    // packed weights and constants of a model
	Activations                // what an op hands to the next within a step
	Workspace                  // scratch of ops and of captured graphs
	KV                         // blocks of keys and values
	Input                      // ids, positions, block tables and sampling parameters of a step, and its results

	NumPurposes = int(Input) + 1
)

var purposeNames = [NumPurposes]string{"reserved", "weights", "activations", "workspace", "kv", "input"}

// String is the name that logs and metrics use.
func (p Purpose) String() string {
	if int(p) >= NumPurposes {
		return fmt.Sprintf("Purpose(%d)", uint8(p))
	}
	return purposeNames[p]
}
