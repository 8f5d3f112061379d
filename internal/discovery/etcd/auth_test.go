package etcd_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/inferno-serve/inferno/internal/discovery/etcd"
	"github.com/inferno-serve/inferno/internal/discovery/etcd/etcdtest"
)

// withUsers turns authentication on: root, and inferno, who may touch what is below the prefix and nothing else.
func withUsers(t *testing.T, c *etcdtest.Cluster) *clientv3.Client {
	t.Helper()
	ctx, open := t.Context(), c.Client(t)
	for _, name := range []string{"root", "inferno"} {
		_, err := open.RoleAdd(ctx, name)
		check(t, err)
		_, err = open.UserAdd(ctx, name, "secret of "+name)
		check(t, err)
		_, err = open.UserGrantRole(ctx, name, name)
		check(t, err)
	}
	below := prefix + "/"
	_, err := open.RoleGrantPermission(
		ctx, "inferno", below, clientv3.GetPrefixRangeEnd(below), clientv3.PermissionType(clientv3.PermReadWrite))
	check(t, err)
	_, err = open.AuthEnable(ctx)
	check(t, err)
	return c.ClientAs(t, "root", "secret of root")
}

func secret(of func() etcd.Secret) func(*etcd.Options) {
	return func(o *etcd.Options) { o.Secret = func() (etcd.Secret, error) { return of(), nil } }
}

// etcd's tokens live as long as they are used, here a second; and none outlives etcd itself.
func TestExpiredTokensAreFetchedAnew(t *testing.T) {
	c := start(t, 1, "--auth-token-ttl", "1")
	root := withUsers(t, c)
	r := open(t, c, ttl(6*time.Second), secret(func() etcd.Secret { return etcd.Secret{User: "inferno", Password: "secret of inferno"} }))
	i := instance("a", "m")
	g := register(t, r, i)
	events, err := r.Watch(t.Context())
	check(t, err)
	<-events
	if list, err := r.ListWithLeases(t.Context()); err != nil || len(list) != 1 || list[0].LeaseLeft == 0 {
		t.Errorf("%+v, %v, want what is left of the lease: who may read the instances may ask for it", list, err)
	}
	came := created(t, root)
	for n := range rounds(3, 60) {
		time.Sleep(2500 * time.Millisecond) // the token is gone by now
		if n%3 == 2 {
			c.Members[0].Kill()
			c.Members[0].Start()
			c.Members[0].WaitReady()
		}
		i.Load.Running = 100 + n
		took := eventually(t, "updated", func() bool { return g.Update(t.Context(), i) == nil && g.Held() == nil })
		figure(t, "an update is taken after the token expired", took, 2*time.Second)
		for told := false; !told; {
			e := <-events
			told = e.Put != nil && e.Put.Load.Running == i.Load.Running ||
				e.Snapshot != nil && len(*e.Snapshot) == 1 && (*e.Snapshot)[0].Load.Running == i.Load.Running
		}
	}
	if now := created(t, root); now != came {
		t.Error("the key was gone")
	}
	check(t, g.Withdraw(t.Context()))
	eventually(t, "no lease left", func() bool {
		leases, err := root.Leases(t.Context())
		return err == nil && len(leases.Leases) == 0
	})
}

func TestSecretsAreReadAgainWhenTheyAreRefused(t *testing.T) {
	c := start(t, 1)
	root := withUsers(t, c)
	var password atomic.Value
	password.Store("wrong")
	r := open(t, c, secret(func() etcd.Secret { return etcd.Secret{User: "inferno", Password: password.Load().(string)} }))
	i := instance("a", "m")
	if _, err := r.Register(t.Context(), i); err == nil || !strings.Contains(err.Error(), "authentication failed") {
		t.Errorf("with a wrong password: %v, want that etcd refuses it", err)
	}
	password.Store("secret of inferno")
	g := register(t, r, i)

	// A password that is changed while the instance runs, and a token that etcd has forgotten.
	_, err := root.UserChangePassword(t.Context(), "inferno", "another")
	check(t, err)
	c.Members[0].Proxy.Set(etcdtest.Fault{Cut: true})
	c.Members[0].Proxy.Set(etcdtest.Fault{})
	eventually(t, "the old password is refused", func() bool { return g.Update(t.Context(), i) != nil || g.Held() != nil })
	t.Logf("while it lasts: %v", g.Held())
	password.Store("another")
	eventually(t, "held by the new one", func() bool { return g.Update(t.Context(), i) == nil && g.Held() == nil })
	check(t, g.Withdraw(t.Context()))
	eventually(t, "no lease left", func() bool {
		leases, err := root.Leases(t.Context())
		return err == nil && len(leases.Leases) == 0
	})
}

// A user who may not write is told so, and nothing is left of the try.
func TestMissingPermissionIsNamed(t *testing.T) {
	c := start(t, 1)
	root := withUsers(t, c)
	r := open(t, c, secret(func() etcd.Secret { return etcd.Secret{User: "inferno", Password: "secret of inferno"} }),
		func(o *etcd.Options) { o.Prefix = "elsewhere" })
	if _, err := r.Register(t.Context(), instance("a")); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("registered without permission: %v", err)
	}
	leases, err := root.Leases(t.Context())
	check(t, err)
	if len(leases.Leases) != 0 {
		t.Errorf("%d leases left", len(leases.Leases))
	}
}
