/**
 * Completion for bash alone. Our own rather than the library's, which needs the bash-completion package and evaluates
 * the typed line as shell code. It splits the line at blanks itself, because bash also splits words at `:` and `=`,
 * and gives back only what follows the last of those.
 */
export const bashScript = `# bash completion for roost: source <(roost completion bash)
_roost_complete() {
  local line="\${COMP_LINE:0:COMP_POINT}" words current value prefix
  read -ra words <<< "$line"
  [[ "$line" == *[[:space:]] ]] && words+=("")
  current="\${words[-1]}"
  prefix="\${current%"\${current##*[:=]}"}"
  COMPREPLY=()
  while IFS=$'\\t' read -r value _; do
    [[ "$value" == :+([0-9]) || "$value" == :[0-9] ]] && continue
    [[ -n "$value" && "$value" == "$current"* ]] || continue
    [[ "$value" == *: ]] && compopt -o nospace
    COMPREPLY+=("\${value#"$prefix"}")
  done < <("\${words[0]}" complete -- "\${words[@]:1}" 2>/dev/null)
}
complete -o default -F _roost_complete roost`;
