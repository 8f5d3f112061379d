// Package auth knows who calls a server and what he may do: certificates, tokens, roles, and how much of it. Server asks it at each call, on
// the goroutine that read the call's headers; backend runs what reads the files again when they change. What is given out never changes:
// a change of a file makes new values, so that calls that run keep theirs.
package auth

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Role is what somebody may do. Roles do not contain each other: an administrator who generates has infer too.
type Role uint8

// Roles.
const (
	Health Role = iota // ask whether the server is well
	Infer              // generate, score, embed, tokenize; abort one's own requests
	Read               // see models, instances, metrics, and what the API is
	Admin              // load and unload models, abort other people's requests, profiles
)

var roleNames = [...]string{"health", "infer", "read", "admin"}

func (r Role) String() string { return roleNames[r] }

// UnmarshalText reads the name of a role.
func (r *Role) UnmarshalText(text []byte) error {
	i := slices.Index(roleNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("role %q, want one of %s", text, strings.Join(roleNames[:], ", "))
	}
	*r = Role(i)
	return nil
}

// Roles is a set.
type Roles uint8

// RolesOf is the set of these.
func RolesOf(roles ...Role) (set Roles) {
	for _, r := range roles {
		set |= 1 << r
	}
	return set
}

// Has says whether r is one of them.
func (s Roles) Has(r Role) bool { return s&(1<<r) != 0 }

// Identity is somebody who calls. Its key, not its name, tells it from others: a name in a token of an issuer may be that of a line in the
// access file.
type Identity struct {
	Name   string // for people, in logs
	Key    string // unique
	Roles  Roles
	Limits Limits

	NamesTenants bool // its calls may say for whom they are made
}

// ErrUnauthenticated means that a caller showed nothing that says who he is, or something that does not hold. Why is for the log alone.
var ErrUnauthenticated = errors.New("no valid credentials")

// DeniedError means that a caller is known and may not do this.
type DeniedError struct {
	Identity string // its name
	Role     Role   // that it would need
}

func (e *DeniedError) Error() string { return fmt.Sprintf("this takes the role %s", e.Role) }

// LimitError means that a caller asks for more than he may.
type LimitError struct {
	Limit      string // its name in the access file
	Most       float64
	RetryAfter time.Duration
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("this caller's limit of %s, %v, is reached", e.Limit, e.Most)
}

// refused is ErrUnauthenticated with its reason, which holds nothing that the caller sent.
func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnauthenticated, fmt.Sprintf(format, args...))
}
