package load

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"
)

// drawing is what an SVG reader sees of a plot.
type drawing struct {
	Texts     []string `xml:"text"`
	Polylines []struct {
		Points string `xml:"points,attr"`
	} `xml:"polyline"`
	Circles []struct {
		X float64 `xml:"cx,attr"`
		Y float64 `xml:"cy,attr"`
	} `xml:"circle"`
	Width  float64 `xml:"width,attr"`
	Height float64 `xml:"height,attr"`
}

func draw(t *testing.T, title string, results []*Result) drawing {
	t.Helper()
	var b strings.Builder
	if err := Plot(&b, title, results); err != nil {
		t.Fatal(err)
	}
	var d drawing
	if err := xml.Unmarshal([]byte(b.String()), &d); err != nil {
		t.Fatalf("%v in\n%s", err, b.String())
	}
	return d
}

func coordinates(t *testing.T, points string) (xs, ys []float64) {
	t.Helper()
	for at := range strings.FieldsSeq(points) {
		x, y, _ := strings.Cut(at, ",")
		fx, errX := strconv.ParseFloat(x, 64)
		fy, errY := strconv.ParseFloat(y, 64)
		if err := errors.Join(errX, errY); err != nil {
			t.Fatal(err)
		}
		xs, ys = append(xs, fx), append(ys, fy)
	}
	return xs, ys
}

func TestPlotDrawsEachValueAtItsPlace(t *testing.T) {
	var results []*Result
	for i, n := range []int{1, 4, 16, 64} {
		results = append(results, &Result{
			Concurrency: n, OutputPerSecond: float64(100 * (i + 1)),
			FirstToken: Distribution{P50: 10, P90: 20, P99: float64(40 * (i + 1))},
		})
	}
	d := draw(t, `a < b & "c"`, results)
	if len(d.Texts) == 0 || d.Texts[0] != `a < b & "c"` {
		t.Errorf("texts %q", d.Texts)
	}
	if len(d.Polylines) != 12 || len(d.Circles) != 48 {
		t.Fatalf("%d curves and %d points, want 12 of 4 points", len(d.Polylines), len(d.Circles))
	}
	// Loads that grow fourfold are as far from each other.
	xs, ys := coordinates(t, d.Polylines[2].Points)
	for i := range 3 {
		if step := xs[i+1] - xs[i]; math.Abs(step-(xs[3]-xs[0])/3) > .2 {
			t.Errorf("places %v of the loads 1, 4, 16, 64", xs)
		}
		// Values that grow evenly too, upwards.
		if step := ys[i] - ys[i+1]; step <= 0 || math.Abs(step-(ys[0]-ys[3])/3) > .2 {
			t.Errorf("places %v of the values 40, 80, 120, 160", ys)
		}
	}
	// p90 is half of p99's first value, measured from the same zero.
	_, p90 := coordinates(t, d.Polylines[1].Points)
	bottom := float64(topEdge + panelHeight)
	if got := (bottom - p90[0]) / (bottom - ys[0]); math.Abs(got-.5) > .02 {
		t.Errorf("20 stands at %.3f of 40's height", got)
	}
	for _, c := range d.Circles {
		if !(c.X >= leftEdge && c.X <= plotWidth-rightEdge && c.Y >= 0 && c.Y <= d.Height) {
			t.Errorf("point %+v lies outside", c)
		}
	}
	if !strings.Contains(strings.Join(d.Texts, "|"), "requests at once") {
		t.Errorf("the load has no name in %q", d.Texts)
	}
}

func TestPlotOfLittle(t *testing.T) {
	for name, results := range map[string][]*Result{
		"nothing": nil, "one": {{Rate: 2.5}}, "zeros": {{Concurrency: 1}, {Concurrency: 2}},
	} {
		for _, c := range draw(t, name, results).Circles {
			if math.IsNaN(c.X) || math.IsInf(c.X, 0) || math.IsNaN(c.Y) || math.IsInf(c.Y, 0) {
				t.Errorf("%s: a point at %+v", name, c)
			}
		}
	}
	if err := Plot(failing{}, "", nil); err == nil {
		t.Error("a file that cannot be written is no error")
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrShortWrite }
