//go:build tools

package main

// Built beside this program, from the versions that go.mod pins.
import _ "github.com/prometheus-operator/prometheus-operator/cmd/operator"
