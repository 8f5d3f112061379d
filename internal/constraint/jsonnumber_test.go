package constraint

import (
	"fmt"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestNumbersBetweenBoundsAreAllThere holds the digits of ranges to exact arithmetic: of the numbers of few digits, just those that the bounds
// let through.
func TestNumbersBetweenBoundsAreAllThere(t *testing.T) {
	inside, outside := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		number := func(label string) string {
			text := fmt.Sprint(rapid.SampledFrom([]int{0, 1, 5, 9, 10, 19, 20, 99, 100, 101, 250, 999, 1000}).Draw(t, label))
			if rapid.Bool().Draw(t, "fraction") {
				text += "." + rapid.SampledFrom([]string{"0", "5", "25", "9", "09", "001", "999"}).Draw(t, "digits")
			}
			if text != "0" && rapid.Bool().Draw(t, "negative") {
				text = "-" + text
			}
			return text
		}
		rational := func(text string) *big.Rat {
			r, _ := new(big.Rat).SetString(text)
			return r
		}
		schema, accepts := `{"type":"number"`, []func(r *big.Rat) bool{}
		add := func(keyword, value string, ok func(c int) bool) {
			schema += fmt.Sprintf(`,%q:%s`, keyword, value)
			accepts = append(accepts, func(r *big.Rat) bool { return ok(r.Cmp(rational(value))) })
		}
		switch rapid.IntRange(0, 2).Draw(t, "low") {
		case 0:
			add("minimum", number("minimum"), func(c int) bool { return c >= 0 })
		case 1:
			add("exclusiveMinimum", number("minimum"), func(c int) bool { return c > 0 })
		}
		switch rapid.IntRange(0, 2).Draw(t, "high") {
		case 0:
			add("maximum", number("maximum"), func(c int) bool { return c <= 0 })
		case 1:
			add("exclusiveMaximum", number("maximum"), func(c int) bool { return c < 0 })
		}
		stepped := false
		if step := rapid.SampledFrom([]string{"", "", "0.1", "0.01", "1", "10"}).Draw(t, "step"); step != "" {
			stepped = true
			schema += `,"multipleOf":` + step
			accepts = append(accepts, func(r *big.Rat) bool { return new(big.Rat).Quo(r, rational(step)).IsInt() })
		}
		g, err := FromSchema(schema + "}")
		if err != nil {
			return // the bounds leave nothing
		}
		p, err := Compile(g)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			text := number("value")
			if text[0] == '-' && rational(text).Sign() == 0 {
				continue // −0 is left out
			}
			want := true
			for _, ok := range accepts {
				want = want && ok(rational(text))
			}
			if got := p.Match(text); got != want {
				if want && stepped && strings.Contains(text, ".") && strings.HasSuffix(text, "0") {
					continue // multiples of 1 are written without a point, of 0.1 with one digit behind it
				}
				t.Fatalf("%s}: %s matches %t, want %t", schema, text, got, want)
			}
			if want {
				inside++
			} else {
				outside++
			}
		}
	})
	t.Logf("%d numbers inside, %d outside", inside, outside)
	if inside == 0 || outside == 0 {
		t.Error("nothing was told apart")
	}
}
