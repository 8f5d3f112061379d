package load

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
)

// maxLength is the most tokens that a length may say: more than any context, and little enough to add up.
const maxLength = 1 << 24

// Lengths are the distribution of a request's prompt or output tokens. The zero value draws 0.
type Lengths struct {
	Min, Max int // of what is drawn; equal where all are the same

	mu, sigma float64 // of the natural logarithm; sigma 0: all are Min
}

// Fixed is the same length always.
func Fixed(tokens int) Lengths { return Lengths{Min: tokens, Max: tokens} }

// UnmarshalText reads "128", or "lognormal:mean=200,stddev=150,max=1024": the mean and standard deviation before what is drawn is rounded and
// brought within min (1 where not given) and max.
func (l *Lengths) UnmarshalText(text []byte) error {
	s := string(text)
	name, parameters, isDistribution := strings.Cut(s, ":")
	if !isDistribution {
		n, err := lengthOf(s)
		*l = Fixed(n)
		return err
	}
	if name != "lognormal" {
		return fmt.Errorf("distribution %q, want lognormal", name)
	}
	values, err := readParameters(parameters)
	if err != nil {
		return err
	}
	mean, stddev := values["mean"], values["stddev"]
	if !(mean >= 1) || !(stddev > 0) {
		return fmt.Errorf("mean %v and stddev %v, want at least 1 and more than 0", mean, stddev)
	}
	*l = Lengths{Min: 1, Max: int(values["max"])}
	if m, ok := values["min"]; ok {
		l.Min = int(m)
	}
	if l.Max == 0 {
		return errors.New("max is missing, want the most tokens to draw")
	}
	if l.Min > l.Max {
		return fmt.Errorf("min %d is more than max %d", l.Min, l.Max)
	}
	spread := math.Log1p((stddev / mean) * (stddev / mean))
	l.mu, l.sigma = math.Log(mean)-spread/2, math.Sqrt(spread)
	return nil
}

// readParameters reads mean, stddev, min and max, of which the last two are lengths.
func readParameters(text string) (map[string]float64, error) {
	values := map[string]float64{}
	for part := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(part, "=")
		if _, twice := values[key]; twice {
			return nil, fmt.Errorf("%s is given twice", key)
		}
		switch key {
		case "mean", "stddev":
			v, err := strconv.ParseFloat(value, 64)
			if err != nil || !(v <= maxLength) {
				return nil, fmt.Errorf("%s: %q, want a number of tokens up to %d", key, value, maxLength)
			}
			values[key] = v
		case "min", "max":
			n, err := lengthOf(value)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			values[key] = float64(n)
		default:
			return nil, fmt.Errorf("%q, want mean=, stddev=, min= or max=", part)
		}
	}
	return values, nil
}

func lengthOf(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("%q is neither a number of tokens nor lognormal:mean=M,stddev=S,max=X", text)
	}
	if n < 1 || n > maxLength {
		return 0, fmt.Errorf("%d tokens, want 1 to %d", n, maxLength)
	}
	return n, nil
}

func (l Lengths) draw(random *rand.Rand) int {
	if l.sigma == 0 {
		return l.Min
	}
	return int(min(max(math.Round(math.Exp(l.mu+l.sigma*random.NormFloat64())), float64(l.Min)), float64(l.Max)))
}

// Size is a request's tokens.
type Size struct{ Prompt, Output int }

// ReadSizes reads a file of sizes: a JSON object whose member "requests" is a list of pairs [prompt tokens, output tokens]. Other members
// are for people.
func ReadSizes(path string) ([]Size, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sizes, err := readSizes(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return sizes, nil
}

func readSizes(r io.Reader) ([]Size, error) {
	var file struct {
		Requests [][]int `json:"requests"`
	}
	if err := json.NewDecoder(r).Decode(&file); err != nil {
		return nil, err
	}
	if len(file.Requests) == 0 {
		return nil, errors.New("no requests, want at least one pair [prompt, output]")
	}
	sizes := make([]Size, len(file.Requests))
	for i, pair := range file.Requests {
		if len(pair) != 2 || min(pair[0], pair[1]) < 1 || max(pair[0], pair[1]) > maxLength {
			return nil, fmt.Errorf("requests[%d] is %v, want [prompt, output] of 1 to %d tokens", i, pair, maxLength)
		}
		sizes[i] = Size{pair[0], pair[1]}
	}
	return sizes, nil
}
