package backend

import (
	"fmt"
	"testing"
	"time"

	"github.com/inferno-serve/inferno/internal/server"
)

func TestPastModelsAreBounded(t *testing.T) {
	rs := newReplicas()
	for i := range 3 * maxPast {
		r := newReplica(fmt.Sprintf("m%03d", i), "")
		r.enter(server.ModelFailed, "as the test says")
		r.model.Info.Since = time.Unix(int64(i), 0)
		rs.byName[r.name] = r
		rs.bury(r)
	}
	list := rs.List()
	if len(list) != maxPast || list[0].Name != fmt.Sprintf("m%03d", 2*maxPast) || len(rs.all()) != 0 {
		t.Errorf("%d past models from %s on, %d replicas; want the last %d and none", len(list), list[0].Name, len(rs.all()), maxPast)
	}
}
