// Dials its first argument and offers the name in its second, as net/http would.
package main

import (
	"crypto/tls"
	"os"
)

func main() {
	_, _ = tls.Dial("tcp", os.Args[1], &tls.Config{
		ServerName: os.Args[2],
		NextProtos: []string{"h2", "http/1.1"},
	})
}
