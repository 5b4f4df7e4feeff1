#!/usr/bin/env bash
# CloudEvents' SDK for Go 2.16.2: in structured mode, an object as data becomes a JSON string in `data`, not a JSON
# object, when its content type ends in +json.
#
# One would guess: an object, as with application/json. CloudEvents' JSON format (1.0.2, 3.1.1) counts */*+json as JSON
# too, and demands that such data are stored as a JSON value and not as a document in a string.
#
# Seen:
#
#   application/json          "data":{"a":1}
#   text/json                 "data":{"a":1}
#   application/vnd.acme+json "data":"{\"a\":1}"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat >main.go <<'GO'
package main

import (
	"fmt"
	"strings"

	cloudevents "github.com/cloudevents/sdk-go/v2"
)

func data(contentType string) string {
	event := cloudevents.NewEvent()
	event.SetID("1")
	event.SetSource("/cms")
	event.SetType("com.acme.seen")
	if err := event.SetData(contentType, map[string]int{"a": 1}); err != nil {
		panic(err)
	}
	written, err := event.MarshalJSON()
	if err != nil {
		panic(err)
	}
	_, found, _ := strings.Cut(string(written), `"data":`)
	return `"data":` + strings.TrimSuffix(found, "}")
}

func main() {
	for _, contentType := range []string{"application/json", "text/json", "application/vnd.acme+json"} {
		fmt.Printf("%-26s%s\n", contentType, data(contentType))
	}
	if data("application/json") != `"data":{"a":1}` || data("application/vnd.acme+json") != `"data":"{\"a\":1}"` {
		panic("this version does otherwise")
	}
}
GO
go mod init findings >/dev/null 2>&1
go get github.com/cloudevents/sdk-go/v2@v2.16.2 >/dev/null 2>&1
go run .
