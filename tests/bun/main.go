// A bun migrator as a service runs it: it tries to lock each second, migrates, rolls the last group back on an error
// (which has no down files, so that only the records go), and unlocks.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/driver/pgdriver"
	"github.com/uptrace/bun/migrate"
)

func main() {
	url, directory := os.Args[1], os.Args[2]
	ctx := context.Background()
	db := bun.NewDB(sql.OpenDB(pgdriver.NewConnector(pgdriver.WithDSN(url))), pgdialect.New())
	migrations := migrate.NewMigrations()
	check(migrations.Discover(os.DirFS(directory)))
	migrator := migrate.NewMigrator(db, migrations)
	check(migrator.Init(ctx))
	for migrator.Lock(ctx) != nil {
		time.Sleep(time.Second)
	}
	group, err := migrator.Migrate(ctx)
	if err != nil {
		fmt.Println("failed:", err)
		_, rollback := migrator.Rollback(ctx)
		fmt.Println("rolled back:", rollback)
	}
	check(migrator.Unlock(ctx))
	check(err)
	fmt.Println("migrated:", group)
}

func check(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
