package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/inferno-serve/inferno/internal/auth"
)

// token is `inferno-server token`: a new token, and what stands for it in an access file, which holds no secret.
func token(args []string) int {
	if len(args) > 0 {
		return report(exitUsage, errors.New("token: takes no arguments; it prints a new token, and its entry for an access file"))
	}
	secret, entry := auth.NewToken()
	if _, err := fmt.Printf("token: %s\nentry: %s\n", secret, entry); err != nil {
		fmt.Fprintln(os.Stderr, "inferno-server:", err)
		return exitFailed
	}
	return 0
}
