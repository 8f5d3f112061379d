package server

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
)

// The two prompts of most cases.
const (
	withText = `model:"m" text:"hi" `
	withIDs  = `model:"m" token_ids{ids:[1,2]} `
)

func taken(name, request string) requestCase { return requestCase{name: name, request: request} }

func faulty(name, request, at, says string) requestCase {
	return requestCase{name: name, request: request, code: codes.InvalidArgument, at: at, says: says}
}

func answered(name, request string, code codes.Code, says string) requestCase {
	return requestCase{name: name, request: request, code: code, says: says}
}

// fieldValues makes a case of each value of a field: of the good ones, which are taken, and of the others, of which the limit is told.
type fieldValues struct {
	request string // what else is asked for
	field   string // "sampling.top_p"
	beside  string // what else is in the message that has the field
	good    []string
	bad     []string
	limit   string // "want above 0"
	also    string // what the violations may name too
}

func (v fieldValues) cases() (cases []requestCase) {
	for _, value := range v.good {
		cases = append(cases, taken(v.field+" "+brief(value), v.request+setTo(v.field, value+" "+v.beside)))
	}
	for _, value := range v.bad {
		cases = append(cases, faulty(v.field+" "+brief(value), v.request+setTo(v.field, value+" "+v.beside), v.field+" "+v.also, v.limit))
	}
	return cases
}

func brief(value string) string {
	if len(value) > 30 {
		return fmt.Sprintf("%.30s and %d bytes more", value, len(value)-30)
	}
	return value
}

// setTo is the text form of a field of a path; a value that starts with { is a message or a map's entry.
func setTo(path, value string) string {
	parents := strings.Split(path, ".")
	last := len(parents) - 1
	text := parents[last] + ":" + value
	for _, parent := range slices.Backward(parents[:last]) {
		text = parent + "{" + text + "}"
	}
	return text + " "
}

// times is n copies of an element of a list.
func times(n int, element string) string {
	return "[" + strings.TrimSuffix(strings.Repeat(element+",", n), ",") + "]"
}

// letters is a text of n letters in quotes.
func letters(n int) string { return `"` + strings.Repeat("a", n) + `"` }
