# shellcheck shell=bash disable=SC2154
# Authorities, certificates and pre-shared keys for tests; sourced. Everything lies below $work.

authority() { # authority NAME
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=$1" \
        -addext basicConstraints=critical,CA:TRUE -keyout "$work/$1.key" -out "$work/$1.pem" 2>/dev/null
}
certificate() { # certificate FOLDER NAME COMMON-NAME AUTHORITY: in FOLDER, as NAME-cert.pem and NAME-key.pem
    mkdir -p "$work/$1" && cp "$work/$4.pem" "$work/$1/ca-cert.pem" &&
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/O=curve/CN=$3" \
            -keyout "$work/$1/$2-key.pem" -out "$work/request" 2>/dev/null &&
        openssl x509 -req -in "$work/request" -CA "$work/$4.pem" -CAkey "$work/$4.key" -CAcreateserial -days 30 \
            -extfile <(printf 'subjectAltName=DNS:localhost,IP:127.0.0.1,DNS:%s.curve.test' "$3") \
            -out "$work/$1/$2-cert.pem" 2>/dev/null
}
pre_shared_keys() { # pre_shared_keys FILE NAME...
    local file=$1 name
    shift
    for name; do printf '%s:%s\n' "$name" "$(openssl rand -hex 32)"; done >"$file"
}
