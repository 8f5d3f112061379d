// Package infernov1 is the API: the services, and the messages that clients and servers exchange, generated from the .proto files beside
// this one. Only internal/server, client and the programs use it.
package infernov1
