//! Makes every build check its SQL against the committed `.sqlx`, whatever the person's environment says.
//!
//! A stray `DATABASE_URL` would otherwise make sqlx's macros talk to that database. `prepare.sh`, which writes
//! `.sqlx` anew, says `SQLX_OFFLINE=false` and is left alone.

fn main() {
    println!("cargo:rerun-if-env-changed=SQLX_OFFLINE");
    println!("cargo:rerun-if-changed=.sqlx");
    println!("cargo:rerun-if-changed=migrations");
    if std::env::var_os("SQLX_OFFLINE").is_none() {
        println!("cargo:rustc-env=SQLX_OFFLINE=true");
    }
}
