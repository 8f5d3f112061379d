package config

import (
	"io"
	"strings"
	"testing"
)

func TestListenersBeyondThisHostAskForMore(t *testing.T) {
	const (
		tls    = "--tls-cert=c --tls-key=k"
		access = " --access-file=a"
		mutual = " --tls-client-ca=ca"
	)
	for args, says := range map[string]string{
		"":                                     "",
		"--listen=127.0.0.2:1":                 "",
		"--listen=[::1]:1":                     "",
		"--listen=[::ffff:127.0.0.1]:1":        "",
		"--listen=localhost:1":                 "",
		"--listen=unix:///s":                   "",
		"--listen=0.0.0.0:1":                   `listen: "0.0.0.0:1" is reached from other hosts in plain text`,
		"--listen=:1":                          "plain text",
		"--listen=[::]:1":                      "plain text",
		"--listen=10.0.0.1:1":                  "plain text",
		"--listen=example.org:1":               "plain text",
		"--listen=localhost.example.org:1":     "plain text",
		"--listen=128.0.0.1:1":                 "plain text",
		"--admin-listen=0.0.0.0:1":             `admin-listen: "0.0.0.0:1" is reached from other hosts in plain text`,
		"--admin-listen= --listen=127.0.0.1:1": "",
		"--listen=0.0.0.0:1 --insecure":        "",
		"--listen=0.0.0.0:1" + access:          "plain text",
		"--listen=0.0.0.0:1 " + tls:            "nobody is asked",
		"--listen=0.0.0.0:1 " + tls + access:   "",
		"--listen=0.0.0.0:1 " + tls + mutual:   "",
		"--listen=0.0.0.0:1 --insecure " + tls: "",
		"--listen=0.0.0.0:1 --tls-client-auth=optional " + tls + mutual:          "nobody is asked",
		"--listen=0.0.0.0:1 --tls-client-auth=optional " + tls + mutual + access: "",
		"--tls-cert=c":                 "want both or neither",
		"--tls-key=k":                  "want both or neither",
		"--tls-client-ca=ca":           "no effect without tls-cert",
		"--tls-client-auth=optional":   "no effect without tls-client-ca",
		"--tls-client-auth=never":      "want one of require, optional",
		"--tls-min-version=1.1":        "want one of 1.2, 1.3",
		"--tls-min-version=1.2 " + tls: "",
		"--max-connections=0":          "want 1 to",
		"--max-address-connections=-1": "want 0 to",
	} {
		_, err := Load(append([]string{"--model=m=p"}, strings.Fields(args)...), "test", io.Discard)
		if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("%s: %v, want %q", args, err, says)
		}
	}
}
