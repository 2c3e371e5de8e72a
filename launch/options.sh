# Sourced by scripts that pass options on to several commands.
# shellcheck shell=bash disable=SC2034

# take_options OPTION...: sets the array `options` to all, and `data` to --data_dir=DIR among them.
# DIR is as the caller means it, not from the folder that a script enters later; it is made.
take_options() {
  local option
  options=()
  data=()
  for option in "$@"; do
    case $option in
      --data_dir=*)
        mkdir -p "${option#*=}"
        option=--data_dir=$(cd "${option#*=}" && pwd)
        data=("$option")
        ;;
    esac
    options+=("$option")
  done
}
