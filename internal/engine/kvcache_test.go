package engine

import (
	"strings"
	"testing"
)

func TestCheckIntegrityFindsWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		breakIt func(p *blockPool, table []int32) [][]int32
		says    string
	}{
		"nothing":      {func(_ *blockPool, table []int32) [][]int32 { return [][]int32{table} }, ""},
		"leak":         {func(*blockPool, []int32) [][]int32 { return nil }, "1 references, 0 tables name it"},
		"shared":       {func(_ *blockPool, table []int32) [][]int32 { return [][]int32{table, table[:1]} }, "1 references, 2 tables name it"},
		"freed in use": {func(p *blockPool, table []int32) [][]int32 { p.release(table[:1]); return [][]int32{table} }, "0 references, 1 tables"},
		"free twice": {func(p *blockPool, table []int32) [][]int32 {
			p.free = append(p.free, p.free[0])
			return [][]int32{table}
		}, "free twice"},
		"lost": {func(p *blockPool, table []int32) [][]int32 {
			p.free = p.free[1:]
			return [][]int32{table}
		}, "0 references, on the free list: false"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newBlockPool(5, 4, false)
			err := p.checkIntegrity(c.breakIt(p, []int32{p.take(), p.take()}))
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
}

func TestReleasingTwicePanics(t *testing.T) {
	p := newBlockPool(5, 4, false)
	table := []int32{p.take()}
	p.release(table)
	defer func() {
		if r := recover(); r == nil || !strings.Contains(r.(string), "block 0 released with 0 references") {
			t.Errorf("recovered %v", r)
		}
	}()
	p.release(table)
}
