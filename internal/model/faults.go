package model

import (
	"fmt"
	"strings"
)

// faults collects everything that is wrong with a file, so that one start shows all of it.
type faults struct{ all []error }

func (f *faults) addf(format string, args ...any) { f.all = append(f.all, fmt.Errorf(format, args...)) }

// err is nil, or one error of one line that wraps them all.
func (f *faults) err() error {
	if len(f.all) == 0 {
		return nil
	}
	return &faultsError{f.all}
}

type faultsError struct{ all []error }

func (e *faultsError) Error() string {
	const shown = 10
	var lines []string
	for i, err := range e.all {
		if i == shown {
			lines = append(lines, fmt.Sprintf("and %d more", len(e.all)-shown))
			break
		}
		lines = append(lines, err.Error())
	}
	return strings.Join(lines, "; ")
}

func (e *faultsError) Unwrap() []error { return e.all }
