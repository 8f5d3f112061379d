package load

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// A curve is one value of each result.
type curve struct {
	name  string
	style string // of the stroke
	value func(r *Result) float64
}

// A panel is a diagram above the load axis, which all share.
type panel struct {
	title  string
	curves []curve
}

const (
	firstColour  = "#1f77b4"
	secondColour = "#ff7f0e"
	thirdColour  = "#d62728"
)

var panels = []panel{
	{"time to first token, ms", quantileCurves(func(r *Result) *Distribution { return &r.FirstToken })},
	{"time between tokens, ms", quantileCurves(func(r *Result) *Distribution { return &r.InterToken })},
	{"end to end, ms", quantileCurves(func(r *Result) *Distribution { return &r.Total })},
	{"output tokens a second", []curve{{"output", firstColour, func(r *Result) float64 { return r.OutputPerSecond }}}},
	{"requests a second", []curve{
		{"succeeded", firstColour, func(r *Result) float64 { return r.RequestsPerSecond }},
		{"within the targets", secondColour, func(r *Result) float64 { return r.GoodPerSecond }},
	}},
}

func quantileCurves(of func(*Result) *Distribution) []curve {
	return []curve{
		{"p50", firstColour, func(r *Result) float64 { return of(r).P50 }},
		{"p90", secondColour, func(r *Result) float64 { return of(r).P90 }},
		{"p99", thirdColour, func(r *Result) float64 { return of(r).P99 }},
	}
}

// Sizes in pixels.
const (
	plotWidth   = 760
	panelHeight = 170
	panelGap    = 46
	leftEdge    = 80
	rightEdge   = 150 // of the legend
	topEdge     = 50
)

// Plot draws latency and throughput against load as an SVG: one panel each, with a point for each result, in the order of their loads.
func Plot(w io.Writer, title string, results []*Result) error {
	p := &plot{results: results, x: scaleOf(loads(results), true)}
	height := topEdge + len(panels)*(panelHeight+panelGap) + 10
	p.put(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`,
		plotWidth, height, plotWidth, height)
	p.put(`<rect width="%d" height="%d" fill="#ffffff"/>`, plotWidth, height)
	p.text(leftEdge, 24, "start", title)
	for i, panel := range panels {
		p.panel(panel, float64(topEdge+i*(panelHeight+panelGap)))
	}
	p.put(`</svg>`)
	_, err := io.WriteString(w, p.out.String())
	return err
}

func loads(results []*Result) []float64 {
	x := make([]float64, len(results))
	for i, r := range results {
		x[i] = r.Load()
	}
	return x
}

type plot struct {
	out     strings.Builder
	results []*Result
	x       scale
}

func (p *plot) put(format string, args ...any) { fmt.Fprintf(&p.out, format+"\n", args...) }

func (p *plot) text(x, y float64, anchor, text string) {
	p.put(`<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, x, y, anchor, escaped(text))
}

func escaped(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a Builder takes all
	return b.String()
}

// panel draws a panel whose upper edge is at top.
func (p *plot) panel(panel panel, top float64) {
	var all []float64
	for _, c := range panel.curves {
		for _, r := range p.results {
			all = append(all, c.value(r))
		}
	}
	y := scaleOf(all, false)
	right, bottom := float64(plotWidth-rightEdge), top+panelHeight
	atX := func(v float64) float64 { return leftEdge + p.x.place(v)*(right-leftEdge) }
	atY := func(v float64) float64 { return bottom - y.place(v)*panelHeight }

	p.text(leftEdge, top-8, "start", panel.title)
	for _, v := range y.ticks {
		p.put(`<path d="M%d %.1fH%.1f" stroke="#dddddd"/>`, leftEdge, atY(v), right)
		p.text(leftEdge-6, atY(v)+4, "end", number(v))
	}
	for _, v := range p.x.ticks {
		p.put(`<path d="M%.1f %.1fV%.1f" stroke="#dddddd"/>`, atX(v), top, bottom)
		p.text(atX(v), bottom+16, "middle", number(v))
	}
	p.text(right+12, bottom+16, "start", p.loadName())
	for i, c := range panel.curves {
		points := make([]string, len(p.results))
		for j, r := range p.results {
			points[j] = fmt.Sprintf("%.1f,%.1f", atX(r.Load()), atY(c.value(r)))
		}
		p.put(`<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`, strings.Join(points, " "), c.style)
		for _, at := range points {
			x, y, _ := strings.Cut(at, ",")
			p.put(`<circle cx="%s" cy="%s" r="3" fill="%s"/>`, x, y, c.style)
		}
		p.put(`<rect x="%.1f" y="%.1f" width="12" height="3" fill="%s"/>`, right+12, top+12+18*float64(i), c.style)
		p.text(right+30, top+17+18*float64(i), "start", c.name)
	}
}

func (p *plot) loadName() string {
	if len(p.results) > 0 && p.results[0].Rate > 0 {
		return "requests/s offered"
	}
	return "requests at once"
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }

// A scale places values between 0 and 1: evenly from 0 up or, over loads that grow more than eightfold, by their logarithm.
type scale struct {
	low, high   float64
	logarithmic bool
	ticks       []float64
}

func scaleOf(values []float64, isLoad bool) scale {
	if len(values) == 0 {
		return scale{high: 1}
	}
	least, most := math.Inf(1), 0.0
	for _, v := range values {
		least, most = min(least, v), max(most, v)
	}
	if isLoad && least > 0 && most > 8*least {
		return scale{low: math.Log(least), high: math.Log(most), logarithmic: true, ticks: values}
	}
	if most == 0 {
		most = 1
	}
	step := math.Pow(10, math.Floor(math.Log10(most)))
	switch {
	case most/step < 2:
		step /= 4
	case most/step < 5:
		step /= 2
	}
	s := scale{high: step * math.Ceil(most/step)}
	for i := range int(math.Round(s.high/step)) + 1 {
		s.ticks = append(s.ticks, float64(i)*step)
	}
	return s
}

func (s scale) place(v float64) float64 {
	if s.logarithmic {
		v = math.Log(v)
	}
	return (v - s.low) / (s.high - s.low)
}
