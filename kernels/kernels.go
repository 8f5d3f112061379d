// Package kernels holds the device libraries: inferno.h, the table that each of them fills; cpu/, compiled into the binary by cgo;
// cuda/, a library of its own opened at run time.
package kernels

import _ "embed"

// Header is inferno.h. The packages that compile against it import this one, so that the go tool, which does not follow an #include out of
// a package's folder, compiles them anew when the header changes.
//
//go:embed inferno.h
var Header string
